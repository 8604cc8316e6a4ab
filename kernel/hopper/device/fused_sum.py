"""The small kernel after a fused backward kernel for Hopper: dQ of its fp32 sum."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["scale", "q_tiles", "Nq", "d"])
def _scale_dq(
    sum_ptr,
    dq_ptr,
    scale: tl.float32,
    q_tiles: tl.int32,
    Nq: tl.int32,
    d: tl.int32,
    PARTS: tl.constexpr,
    IN_TILES: tl.constexpr,
):
    """dQ = scale * sum, for 64 x 64 elements of a head; dQ is contiguous, d a multiple of 8.

    The sum, in fp32, has 64 * PARTS columns and 64 * q_tiles rows of each head. IN_TILES says that 64 x 64 elements lie
    together, in the order of wgmma's registers, as `fused._add_by_atomics` adds them.
    """
    tile = tl.program_id(0) // PARTS
    part = tl.program_id(0) - tile * PARTS
    head = tile // q_tiles
    offs = tl.arange(0, 64)
    if IN_TILES:
        x = tl.load(sum_ptr + tl.program_id(0).to(tl.int64) * (64 * 64) + tl.arange(0, 64 * 64))
        x = tl.permute(tl.reshape(x, [8, 4, 8, 4, 2, 2]), (1, 4, 2, 0, 3, 5))
        x = tl.reshape(x, [64, 64])
    else:
        first = tile.to(tl.int64) * (64 * 64 * PARTS) + part * 64
        x = tl.load(sum_ptr + first + (offs[:, None] * (64 * PARTS) + offs[None, :]))
    rows = (tile - head * q_tiles) * 64 + offs
    columns = part * 64 + offs
    # The compiler must know that d is a multiple of 8, or it stores elements one by one.
    d = d // 8 * 8
    at = dq_ptr + head.to(tl.int64) * Nq * d + rows[:, None].to(tl.int64) * d + columns[None, :]
    tl.store(at, (x * scale).to(dq_ptr.dtype.element_ty), mask=(rows < Nq)[:, None] & (columns < d)[None, :])
