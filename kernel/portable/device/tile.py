"""Tiles of the portable kernels: where a program's tile is, and how tiles are read and written."""

import triton
import triton.language as tl


@triton.jit
def _widen(x):
    """Bf16 to fp32 by its bits: the stock interpreter gets denormals wrong and multiplies raw bits in tl.dot."""
    return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _narrow(x):
    """Fp32 to the nearest bf16, ties to even, by its bits: the stock interpreter truncates, and denormals go wrong."""
    bits = x.to(tl.uint32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _whole_units(d, ptr, FAST: tl.constexpr):
    """d; with FAST, said to be a whole number of 16-byte units, so that the compiler masks whole units."""
    if FAST:
        unit = 128 // ptr.dtype.element_ty.primitive_bitwidth
        d = d // unit * unit
    return d


@triton.jit
def _tile_offsets(rows, offs_d, stride_n, stride_d, WIDE: tl.constexpr, FAST: tl.constexpr):
    """Offsets (rows, BLOCK_D) in a tile, of 32 bits where those suffice; with FAST stride_d is 1."""
    if not WIDE:
        stride_n = stride_n.to(tl.int32)
        stride_d = stride_d.to(tl.int32)
    offsets = rows[:, None] * stride_n
    if FAST:
        offsets += offs_d[None, :]
    else:
        offsets += offs_d[None, :] * stride_d
    return offsets


@triton.jit
def _place_query_tile(heads, Hq, group, Nq, section, BLOCK_M: tl.constexpr, CAUSAL: tl.constexpr):
    """The query tile of this program: its head of `heads` = B * Hq, batch entry, query head, key head and first row.

    Batch entry and heads of an entry have 64 bits. The grid is one-dimensional, since its other axes end at 65,535.
    `section` heads share the L2 cache: inside a section, all heads do their longest query tile first, so that no long
    one is left over at the end.
    """
    pid = tl.program_id(0)
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    first_head = pid // (section * q_tiles) * section
    width = tl.minimum(section, heads - first_head)
    rank = pid - first_head * q_tiles
    q_tile = rank // width
    head = first_head + rank - q_tile * width
    if CAUSAL:
        q_tile = q_tiles - 1 - q_tile
    b = head // Hq
    hq = head - b * Hq
    hk = hq // group
    return head, b.to(tl.int64), hq.to(tl.int64), hk.to(tl.int64), q_tile * BLOCK_M


@triton.jit
def _load_rows(ptr, offsets, readable, in_d, MASKED: tl.constexpr, PAD_D: tl.constexpr, FAST: tl.constexpr):
    """The rows of a tile at `ptr`: with MASKED those that `readable` (rows, 1) has, 0 elsewhere."""
    tile = ptr + offsets
    if FAST:
        # Said of a sum that is made here: of an argument it would be lost.
        tile = tl.multiple_of(tile, (16, 16))
    if MASKED:
        if PAD_D:
            readable = readable & in_d
        x = tl.load(tile, mask=readable, other=0.0)
    elif PAD_D:
        x = tl.load(tile, mask=in_d, other=0.0)
    else:
        x = tl.load(tile)
    return x


@triton.jit
def _store_rows(
    ptr, x, row0, offs, is_row, offs_d, in_d, d, PAD_D: tl.constexpr, FAST: tl.constexpr, WIDEN: tl.constexpr
):
    """Write a tile of a contiguous tensor with rows of d, from row `row0` (64 bits) on, in the tensor's dtype."""
    tile = ptr + row0 * d + (offs[:, None] * d + offs_d[None, :])
    if FAST:
        tile = tl.multiple_of(tile, (16, 16))
    mask = is_row[:, None]
    if PAD_D:
        mask = mask & in_d
    if WIDEN:
        x = _narrow(x)
    tl.store(tile, x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_queries(
    ptr, offsets, is_query, in_d, PAD_D: tl.constexpr, FAST: tl.constexpr, WIDEN: tl.constexpr, SIGN: tl.constexpr
):
    """A tile of q times the sign of the scale; SIGN 0 makes it 0, whatever q is."""
    q = _load_rows(ptr, offsets, is_query[:, None], in_d, True, PAD_D, FAST)
    if WIDEN:
        q = _widen(q)
    if SIGN < 0:
        q = -q
    if SIGN == 0:
        q = tl.full([q.shape[0], q.shape[1]], 0.0, q.dtype)
    return q
