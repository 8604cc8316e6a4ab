"""FlashAttention forward in Triton: one source for the interpreter and the compiler.

Online softmax over key tiles with a running max m, a running sum l and an accumulator in fp32
(Dao et al., https://arxiv.org/abs/2205.14135 and https://arxiv.org/abs/2307.08691). No Nq x Nk tensor exists.

A query tile visits its wholly visible key tiles first, in a loop without a mask, then the tiles that the diagonal
or the end of the keys cuts, in a loop with one. Key tiles that no row of the query tile sees are never visited.
"""

import triton
import triton.language as tl

# A fuzzer throws every length, stride and alignment at the kernel: none of them may compile a variant of its own.
_NOT_SPECIALIZED = [
    *("q_ptr", "k_ptr", "v_ptr", "o_ptr", "lse_ptr", "seqlens_ptr", "skipped_ptr"),
    *("stride_qb", "stride_qh", "stride_qn", "stride_qd", "stride_kb", "stride_kh", "stride_kn", "stride_kd"),
    *("stride_vb", "stride_vh", "stride_vn", "stride_vd", "stride_seqlens"),
    *("heads", "Hq", "group", "Nq", "Nk", "d", "lower_right", "section", "scale_log2"),
]


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
def _visit(
    acc,
    m,
    l,
    q,
    k_ptr,
    v_ptr,
    k_offsets,
    v_offsets,
    k_step,
    v_step,
    offs_n,
    row_limit,
    in_d,
    scale_log2,
    start,
    stop,
    visible,
    BLOCK_N: tl.constexpr,
    PAD_D: tl.constexpr,
    MASKED: tl.constexpr,
    FAST: tl.constexpr,
    WIDEN: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Visit the key tiles of [start, stop), one online softmax step each.

    Returns acc, m, l, the advanced pointers and, with COUNT, the number of tiles visited.

    m is the running max of the scores in log2 units, l the running sum of exp2(score - m); key columns at or past
    `visible` are not read, and with MASKED row i sees the columns below row_limit[i].
    """
    io_dtype = v_ptr.dtype.element_ty
    visited = 0
    for n0 in tl.range(start, stop, BLOCK_N, num_stages=1 if MASKED else None, disable_licm=MASKED):
        k_tile = k_ptr + k_offsets
        v_tile = v_ptr + v_offsets
        if FAST:
            k_tile = tl.multiple_of(k_tile, (16, 16))
            v_tile = tl.multiple_of(v_tile, (16, 16))
        if MASKED:
            columns = n0 + offs_n
            readable = (columns < visible)[:, None]
            if PAD_D:
                readable = readable & in_d
            k = tl.load(k_tile, mask=readable, other=0.0)
        elif PAD_D:
            k = tl.load(k_tile, mask=in_d, other=0.0)
        else:
            k = tl.load(k_tile)
        if WIDEN:
            k = _widen(k)

        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            v = tl.load(v_tile, mask=readable, other=0.0)
        elif PAD_D:
            v = tl.load(v_tile, mask=in_d, other=0.0)
        else:
            v = tl.load(v_tile)
        # scale_log2 > 0, so scaling commutes with the max, and scaling and subtracting it are one FMA.
        if MASKED:
            scores = tl.where(columns[None, :] < row_limit, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1) * scale_log2)
        m_finite = m_new
        if MASKED:
            # A row that has seen no key yet keeps m = -inf; -inf - -inf would be NaN.
            m_finite = tl.where(m_new == -float("inf"), 0.0, m_new)
        p = tl.math.exp2(scores * scale_log2 - m_finite[:, None])
        alpha = tl.math.exp2(m - m_finite)
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        if WIDEN:
            v = _widen(v)
            p = _widen(_narrow(p))
        else:
            p = p.to(io_dtype)
        acc = tl.dot(p, v, acc, input_precision="ieee")
        m = m_new
        k_ptr += k_step
        v_ptr += v_step
        if COUNT:
            visited += 1
    return acc, m, l, k_ptr, v_ptr, visited


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def _forward(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,
    seqlens_ptr,
    skipped_ptr,
    stride_qb: tl.int64,
    stride_qh: tl.int64,
    stride_qn: tl.int64,
    stride_qd: tl.int64,
    stride_kb: tl.int64,
    stride_kh: tl.int64,
    stride_kn: tl.int64,
    stride_kd: tl.int64,
    stride_vb: tl.int64,
    stride_vh: tl.int64,
    stride_vn: tl.int64,
    stride_vd: tl.int64,
    stride_seqlens: tl.int64,
    heads: tl.int32,
    Hq: tl.int32,
    group: tl.int32,
    Nq: tl.int32,
    Nk: tl.int32,
    d: tl.int32,
    lower_right: tl.int32,
    section: tl.int32,
    scale_log2,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_SEQLENS: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    WIDE: tl.constexpr,
    SIGN: tl.constexpr,
    WIDEN: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One query tile of one head. `heads` is B * Hq; `section` heads share the L2 cache.

    Constexprs: PAD_D masks the columns from d to BLOCK_D; FAST promises unit d strides and 16-byte aligned rows; WIDE
    keeps offsets inside a tile in 64 bits; SIGN, that of the scale, goes into q, exactly, since max and scaling
    commute only for scale_log2 > 0; WIDEN mends bf16 under the interpreter; COUNT stores the skipped key tiles.
    """
    # The grid is one-dimensional, since its other axes end at 65,535. Inside a section, all heads do their longest
    # query tile first, so that no long one is left over at the end.
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
    m0 = q_tile * BLOCK_M
    b = b.to(tl.int64)

    kv_len = Nk
    if HAS_SEQLENS:
        kv_len = tl.load(seqlens_ptr + b * stride_seqlens)
        kv_len = tl.minimum(tl.maximum(kv_len, 0), Nk).to(tl.int32)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    # Keys below `full` are seen by every row of the tile, keys at or past `visible` by none.
    visible = kv_len
    full = kv_len
    row_limit = kv_len
    if CAUSAL:
        first_limit = m0 + 1 + lower_right * (kv_len - Nq)
        last_limit = first_limit + tl.minimum(BLOCK_M, Nq - m0) - 1
        visible = tl.maximum(tl.minimum(kv_len, last_limit), 0)
        full = tl.maximum(tl.minimum(kv_len, first_limit), 0)
        row_limit = tl.minimum(first_limit + offs_m, kv_len)[:, None]
    full = full // BLOCK_N * BLOCK_N

    # 64-bit offsets to the tile, 32-bit ones inside it where they suffice.
    hk = hk.to(tl.int64)
    q_ptr += b * stride_qb + hq.to(tl.int64) * stride_qh + m0.to(tl.int64) * stride_qn
    k_ptr += b * stride_kb + hk * stride_kh
    v_ptr += b * stride_vb + hk * stride_vh
    k_step = stride_kn.to(tl.int64) * BLOCK_N
    v_step = stride_vn.to(tl.int64) * BLOCK_N
    q_offsets = _tile_offsets(offs_m, offs_d, stride_qn, stride_qd, WIDE, FAST)
    k_offsets = _tile_offsets(offs_n, offs_d, stride_kn, stride_kd, WIDE, FAST)
    v_offsets = _tile_offsets(offs_n, offs_d, stride_vn, stride_vd, WIDE, FAST)
    d = _whole_units(d, q_ptr, FAST)
    in_d = (offs_d < d)[None, :]
    is_query = offs_m < Nq - m0
    in_q = is_query[:, None]
    if PAD_D:
        in_q = in_q & in_d

    q_tile_ptr = q_ptr + q_offsets
    if FAST:
        q_tile_ptr = tl.multiple_of(q_tile_ptr, (16, 16))
    q = tl.load(q_tile_ptr, mask=in_q, other=0.0)
    io_dtype = q.dtype
    if WIDEN:
        q = _widen(q)
    if SIGN < 0:
        q = -q
    if SIGN == 0:
        q = tl.full([BLOCK_M, BLOCK_D], 0.0, q.dtype)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    acc, m, l, k_ptr, v_ptr, visited = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, 0, full, visible, BLOCK_N, PAD_D, False, FAST, WIDEN, COUNT,
    )  # fmt: skip
    acc, m, l, _, _, visited_masked = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, full, visible, visible, BLOCK_N, PAD_D, True, FAST, WIDEN, COUNT,
    )  # fmt: skip

    l = tl.where(l == 0.0, 1.0, l)
    lse = (m + tl.math.log2(l)) * 0.6931471805599453
    row0 = head.to(tl.int64) * Nq + m0
    tl.store(lse_ptr + row0 + offs_m, lse, mask=is_query)
    acc = acc * (1.0 / l)[:, None]
    if WIDEN:
        acc = _narrow(acc)
    o_tile_ptr = o_ptr + row0 * d + (offs_m[:, None] * d + offs_d[None, :])
    if FAST:
        o_tile_ptr = tl.multiple_of(o_tile_ptr, (16, 16))
    tl.store(o_tile_ptr, acc.to(io_dtype), mask=in_q)
    if COUNT:
        k_tiles = (Nk + BLOCK_N - 1) // BLOCK_N
        tl.store(skipped_ptr + head.to(tl.int64) * q_tiles + m0 // BLOCK_M, k_tiles - visited - visited_masked)


INTERPRETED = not isinstance(_forward, triton.JITFunction)
"""Whether Triton's interpreter runs the kernel: TRITON_INTERPRET was set when this was imported."""
