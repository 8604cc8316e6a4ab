"""FlashAttention backward in Triton: one source for the interpreter and the compiler.

P is recomputed from the scores and LSE (Dao et al., https://arxiv.org/abs/2205.14135, algorithm 4), tile by tile:

    P = exp(scale q k^T - LSE)      dV = P^T dO      dP = dO v^T
    delta = rowsum(dO * O) - dLSE   dS = P * (dP - delta)   dQ = scale dS k   dK = scale dS^T q

`_delta` makes delta, `_backward_kv` dK and dV of one key tile, summed over the query heads of its group, `_backward_q`
dQ of one query tile. Every gradient is summed in fp32 by one program in a fixed order and written once: nothing is
atomic, so two runs give the same bits. Rows that see no key are never read, and so are keys that no row sees.
"""

import triton
import triton.language as tl

from .mask import _diagonal, _length, _limits_of_tile, _queries_that_see, _sees
from .tile import (
    _load_rows,
    _narrow,
    _place_query_tile,
    _store_rows,
    _tile_offsets,
    _whole_units,
    _widen,
)

_LOG2_E = tl.constexpr(1.4426950408889634)

_STRIDES = [f"stride_{x}{dim}" for x in ("q", "k", "v", "do", "o") for dim in "bhnd"]
# As in the forward pass, no length, stride or alignment may compile a variant of its own.
_NOT_SPECIALIZED = [
    *("q_ptr", "k_ptr", "v_ptr", "do_ptr", "o_ptr", "lse_ptr", "dlse_ptr", "delta_ptr", "lse_log2_ptr", "seqlens_ptr"),
    *("dq_ptr", "dk_ptr", "dv_ptr"),
    *("stride_seqlens", "stride_dlb", "stride_dlh", "stride_dln", "stride_delta"),
    *("heads", "Hq", "Hk", "group", "Nq", "Nk", "d", "lower_right", "section", "scale", "scale_log2"),
]


def _not_specialized(*strided: str) -> list[str]:
    return [*_NOT_SPECIALIZED, *(f"stride_{x}{dim}" for x in strided for dim in "bhnd")]


@triton.jit(do_not_specialize=_not_specialized("do", "o"))
def _delta(
    do_ptr,
    o_ptr,
    lse_ptr,
    dlse_ptr,
    delta_ptr,
    lse_log2_ptr,
    sum_ptr,
    stride_dob: tl.int64,
    stride_doh: tl.int64,
    stride_don: tl.int64,
    stride_dod: tl.int64,
    stride_ob: tl.int64,
    stride_oh: tl.int64,
    stride_on: tl.int64,
    stride_od: tl.int64,
    stride_dlb: tl.int64,
    stride_dlh: tl.int64,
    stride_dln: tl.int64,
    stride_delta: tl.int64,
    Hq: tl.int32,
    Nq: tl.int32,
    d: tl.int32,
    BLOCK_D: tl.constexpr,
    HAS_DLSE: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """delta = rowsum(dO * O) - dLSE of BLOCK_M rows of one head, in fp32; 0 where the row sees no key.

    Such a row is not read: its dLSE may be NaN, which is what torch's logaddexp of two empty parts hands back. Heads
    of delta are stride_delta apart, and so are those of lse_log2_ptr: None, or where LSE / ln(2) goes, and for a row
    that sees no key inf, so that exp2(score - inf) is 0. sum_ptr: None, or where BLOCK_M * BLOCK_D fp32 of each program
    become 0.
    """
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    head = tl.program_id(0) // q_tiles
    m0 = (tl.program_id(0) - head * q_tiles) * BLOCK_M
    b = (head // Hq).to(tl.int64)
    hq = (head - head // Hq * Hq).to(tl.int64)
    offs_m = tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    rows = m0.to(tl.int64) + offs_m
    row0 = head.to(tl.int64) * Nq + m0
    is_query = offs_m < Nq - m0
    lse = tl.load(lse_ptr + row0 + offs_m, mask=is_query, other=-float("inf"))
    sees = lse != -float("inf")
    o_ptr += b * stride_ob + hq * stride_oh
    do_ptr += b * stride_dob + hq * stride_doh
    o_offsets = _tile_offsets(rows, offs_d, stride_on, stride_od, True, FAST)
    do_offsets = _tile_offsets(rows, offs_d, stride_don, stride_dod, True, FAST)
    d = _whole_units(d, o_ptr, FAST)
    in_d = (offs_d < d)[None, :]
    o = _load_rows(o_ptr, o_offsets, sees[:, None], in_d, True, PAD_D, FAST)
    do = _load_rows(do_ptr, do_offsets, sees[:, None], in_d, True, PAD_D, FAST)
    if WIDEN:
        o = _widen(o)
        do = _widen(do)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    if HAS_DLSE:
        dlse_rows = dlse_ptr + b * stride_dlb + hq * stride_dlh + rows * stride_dln
        delta -= tl.load(dlse_rows, mask=sees, other=0.0)
    stats0 = head.to(tl.int64) * stride_delta + m0
    tl.store(delta_ptr + stats0 + offs_m, delta, mask=is_query)
    if lse_log2_ptr is not None:
        tl.store(lse_log2_ptr + stats0 + offs_m, tl.where(sees, lse * _LOG2_E, float("inf")), mask=is_query)
    if sum_ptr is not None:
        first = tl.program_id(0).to(tl.int64) * (BLOCK_M * BLOCK_D)
        tl.store(sum_ptr + first + tl.arange(0, BLOCK_M * BLOCK_D), tl.full([BLOCK_M * BLOCK_D], 0.0, tl.float32))


@triton.jit
def _visit_queries(
    dk,
    dv,
    k,
    v,
    q_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    q_offsets,
    do_offsets,
    q_step,
    do_step,
    stride_qh,
    stride_doh,
    offs_m,
    columns,
    in_d,
    diagonal,
    group,
    Nq,
    scale_log2,
    start,
    count,
    jump_at,
    jump,
    BLOCK_M: tl.constexpr,
    CAUSAL: tl.constexpr,
    PAD_D: tl.constexpr,
    MASKED: tl.constexpr,
    FAST: tl.constexpr,
    FAST_DO: tl.constexpr,
    ZERO_SCALE: tl.constexpr,
    NEED_K: tl.constexpr,
    NEED_V: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add to dK / scale and dV of a key tile what `count` query tiles, from `start` on, of each head of the group give.

    The pointers are those of row 0 of the first head; from tile `jump_at` on, the tile `jump` further is meant. Under a
    diagonal row i sees the keys below `diagonal` + i. With MASKED rows may end, see no key, or see only some of the
    tile's.
    """
    io_dtype = q_ptr.dtype.element_ty
    # One loop, not one for each head in another: it is pipelined as a whole, and less is live in it. What the compiler
    # would move out of it costs registers, and there are none to spare.
    for step in tl.range(0, group * count, num_stages=1 if MASKED else None, disable_licm=True):
        g = step // count
        m_tile = start + step - g * count
        if MASKED:
            m_tile = tl.where(m_tile < jump_at, m_tile, m_tile + jump)
        m0 = m_tile * BLOCK_M
        row0 = g * Nq.to(tl.int64) + m0
        sees = offs_m < Nq - m0
        if MASKED:
            lse = tl.load(lse_ptr + row0 + offs_m, mask=sees, other=-float("inf"))
            sees = lse != -float("inf")
            # What is left out must give exp2(-inf) = 0.
            lse = tl.where(sees, lse, float("inf"))
        else:
            lse = tl.load(lse_ptr + row0 + offs_m)
        q = _load_rows(q_ptr + (g * stride_qh + m_tile * q_step), q_offsets, sees[:, None], in_d, MASKED, PAD_D, FAST)
        if WIDEN:
            q = _widen(q)
        if ZERO_SCALE:
            scores = tl.full([k.shape[0], BLOCK_M], 0.0, tl.float32)
        else:
            scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
        p = tl.math.exp2(scores - (lse * _LOG2_E)[None, :])
        if MASKED and CAUSAL:
            p = tl.where(_sees(columns[:, None], (diagonal + m0 + offs_m)[None, :]), p, 0.0)
        do = _load_rows(
            do_ptr + (g * stride_doh + m_tile * do_step), do_offsets, sees[:, None], in_d, MASKED, PAD_D, FAST_DO
        )
        if WIDEN:
            do = _widen(do)
        # dP comes before dV: fewer values are live at once than the other way round, as compiled.
        if NEED_K:
            dp = tl.dot(v, tl.trans(do), input_precision="ieee")
        if NEED_V:
            if WIDEN:
                dv = tl.dot(_widen(_narrow(p)), do, dv, input_precision="ieee")
            else:
                dv = tl.dot(p.to(io_dtype), do, dv, input_precision="ieee")
        if NEED_K:
            if MASKED:
                delta = tl.load(delta_ptr + row0 + offs_m, mask=sees, other=0.0)
            else:
                delta = tl.load(delta_ptr + row0 + offs_m)
            ds = p * (dp - delta[None, :])
            if WIDEN:
                dk = tl.dot(_widen(_narrow(ds)), q, dk, input_precision="ieee")
            else:
                dk = tl.dot(ds.to(io_dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit(do_not_specialize=_not_specialized("q", "k", "v", "do"))
def _backward_kv(
    q_ptr,
    k_ptr,
    v_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    seqlens_ptr,
    dk_ptr,
    dv_ptr,
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
    stride_dob: tl.int64,
    stride_doh: tl.int64,
    stride_don: tl.int64,
    stride_dod: tl.int64,
    stride_seqlens: tl.int64,
    heads: tl.int32,
    Hk: tl.int32,
    group: tl.int32,
    Nq: tl.int32,
    Nk: tl.int32,
    d: tl.int32,
    lower_right: tl.int32,
    section: tl.int32,
    scale: tl.float32,
    scale_log2: tl.float32,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_SEQLENS: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    FAST_DO: tl.constexpr,
    WIDE: tl.constexpr,
    ZERO_SCALE: tl.constexpr,
    WIDEN: tl.constexpr,
    NEED_K: tl.constexpr,
    NEED_V: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dK and dV of one key tile of one KV head. `heads` is B * Hk; `section` of them share the L2 cache.

    Constexprs are those of `_forward`; FAST_DO is FAST of dO; ZERO_SCALE: the scale is 0 in fp32, and scores are too;
    NEED_K, NEED_V: which of the two is wanted.
    `scale` is that of the scores, `scale_log2` the same times log2(e).
    """
    # The first key tile is seen by the most rows, so the longest ones run first as they stand.
    pid = tl.program_id(0)
    k_tiles = (Nk + BLOCK_N - 1) // BLOCK_N
    first_head = pid // (section * k_tiles) * section
    width = tl.minimum(section, heads - first_head)
    rank = pid - first_head * k_tiles
    n0 = rank // width * BLOCK_N
    head = first_head + rank % width
    b = head // Hk
    hk = head - b * Hk
    b = b.to(tl.int64)

    kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    columns = n0 + offs_n
    # Masked: the query tiles [start, full), and from `whole` on the one whose rows end, if there is one.
    diagonal = _diagonal(kv_len, Nq, lower_right)
    seen, start, full, whole = _queries_that_see(n0, diagonal, kv_len, Nq, BLOCK_M, BLOCK_N, CAUSAL)
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M

    hk64 = hk.to(tl.int64)
    k_ptr += b * stride_kb + hk64 * stride_kh + n0.to(tl.int64) * stride_kn
    v_ptr += b * stride_vb + hk64 * stride_vh + n0.to(tl.int64) * stride_vn
    q_ptr += b * stride_qb + hk64 * group * stride_qh
    do_ptr += b * stride_dob + hk64 * group * stride_doh
    row0 = head.to(tl.int64) * group * Nq
    lse_ptr += row0
    delta_ptr += row0
    q_step = stride_qn * BLOCK_M
    do_step = stride_don * BLOCK_M
    q_offsets = _tile_offsets(offs_m, offs_d, stride_qn, stride_qd, WIDE, FAST)
    k_offsets = _tile_offsets(offs_n, offs_d, stride_kn, stride_kd, WIDE, FAST)
    v_offsets = _tile_offsets(offs_n, offs_d, stride_vn, stride_vd, WIDE, FAST)
    do_offsets = _tile_offsets(offs_m, offs_d, stride_don, stride_dod, WIDE, FAST_DO)
    d = _whole_units(d, q_ptr, FAST)
    in_d = (offs_d < d)[None, :]

    is_seen = columns < seen
    k = _load_rows(k_ptr, k_offsets, is_seen[:, None], in_d, True, PAD_D, FAST)
    v = _load_rows(v_ptr, v_offsets, is_seen[:, None], in_d, True, PAD_D, FAST)
    if WIDEN:
        k = _widen(k)
        v = _widen(v)

    dk = tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    dv = tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
    dk, dv = _visit_queries(
        dk, dv, k, v, q_ptr, do_ptr, lse_ptr, delta_ptr, q_offsets, do_offsets, q_step, do_step, stride_qh, stride_doh,
        offs_m, columns, in_d, diagonal, group, Nq, scale_log2, full, whole - full, 0, 0,
        BLOCK_M, CAUSAL, PAD_D, False, FAST, FAST_DO, ZERO_SCALE, NEED_K, NEED_V, WIDEN,
    )  # fmt: skip
    dk, dv = _visit_queries(
        dk, dv, k, v, q_ptr, do_ptr, lse_ptr, delta_ptr, q_offsets, do_offsets, q_step, do_step, stride_qh, stride_doh,
        offs_m, columns, in_d, diagonal, group, Nq, scale_log2, start, full - start + q_tiles - whole, full,
        whole - full, BLOCK_M, CAUSAL, PAD_D, True, FAST, FAST_DO, ZERO_SCALE, NEED_K, NEED_V, WIDEN,
    )  # fmt: skip

    is_key = columns < Nk
    key0 = head.to(tl.int64) * Nk + n0
    # Rows past `seen` hold whatever the loop without a mask gave keys that nobody sees.
    if NEED_K:
        dk = tl.where(is_seen[:, None], dk * scale, 0.0)
        if ZERO_SCALE:
            dk = tl.full([BLOCK_N, BLOCK_D], 0.0, tl.float32)
        _store_rows(dk_ptr, dk, key0, offs_n, is_key, offs_d, in_d, d, PAD_D, FAST, WIDEN)
    if NEED_V:
        dv = tl.where(is_seen[:, None], dv, 0.0)
        _store_rows(dv_ptr, dv, key0, offs_n, is_key, offs_d, in_d, d, PAD_D, FAST, WIDEN)


@triton.jit
def _visit_keys(
    dq,
    q,
    do,
    lse_log2,
    delta,
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
    ZERO_SCALE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add to dQ / scale what the key tiles of [start, stop) give, and return it with the advanced pointers.

    Columns and masks are those of the forward pass's `_visit`.
    """
    io_dtype = v_ptr.dtype.element_ty
    for n0 in tl.range(start, stop, BLOCK_N, num_stages=1 if MASKED else None, disable_licm=MASKED):
        columns = n0 + offs_n
        readable = (columns < visible)[:, None]
        k = _load_rows(k_ptr, k_offsets, readable, in_d, MASKED, PAD_D, FAST)
        v = _load_rows(v_ptr, v_offsets, readable, in_d, MASKED, PAD_D, FAST)
        if WIDEN:
            k = _widen(k)
            v = _widen(v)
        if ZERO_SCALE:
            scores = tl.full([q.shape[0], BLOCK_N], 0.0, tl.float32)
        else:
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        p = tl.math.exp2(scores - lse_log2[:, None])
        if MASKED:
            p = tl.where(_sees(columns[None, :], row_limit), p, 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        if WIDEN:
            dq = tl.dot(_widen(_narrow(ds)), k, dq, input_precision="ieee")
        else:
            dq = tl.dot(ds.to(io_dtype), k, dq, input_precision="ieee")
        k_ptr += k_step
        v_ptr += v_step
    return dq, k_ptr, v_ptr


@triton.jit(do_not_specialize=_not_specialized("q", "k", "v", "do"))
def _backward_q(
    q_ptr,
    k_ptr,
    v_ptr,
    do_ptr,
    lse_ptr,
    delta_ptr,
    seqlens_ptr,
    dq_ptr,
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
    stride_dob: tl.int64,
    stride_doh: tl.int64,
    stride_don: tl.int64,
    stride_dod: tl.int64,
    stride_seqlens: tl.int64,
    heads: tl.int32,
    Hq: tl.int32,
    group: tl.int32,
    Nq: tl.int32,
    Nk: tl.int32,
    d: tl.int32,
    lower_right: tl.int32,
    section: tl.int32,
    scale: tl.float32,
    scale_log2: tl.float32,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_SEQLENS: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    FAST_DO: tl.constexpr,
    WIDE: tl.constexpr,
    ZERO_SCALE: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """dQ of one query tile of one head, in the order of `_forward`.

    The arguments are those of `_backward_kv`.
    """
    head, b, hq, hk, m0 = _place_query_tile(heads, Hq, group, Nq, section, BLOCK_M, CAUSAL)
    kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    diagonal = _diagonal(kv_len, Nq, lower_right)
    full, visible, row_limit = _limits_of_tile(m0, offs_m, diagonal, kv_len, Nq, BLOCK_M, BLOCK_N, CAUSAL)

    q_ptr += b * stride_qb + hq * stride_qh + m0.to(tl.int64) * stride_qn
    do_ptr += b * stride_dob + hq * stride_doh + m0.to(tl.int64) * stride_don
    k_ptr += b * stride_kb + hk * stride_kh
    v_ptr += b * stride_vb + hk * stride_vh
    k_step = stride_kn.to(tl.int64) * BLOCK_N
    v_step = stride_vn.to(tl.int64) * BLOCK_N
    q_offsets = _tile_offsets(offs_m, offs_d, stride_qn, stride_qd, WIDE, FAST)
    k_offsets = _tile_offsets(offs_n, offs_d, stride_kn, stride_kd, WIDE, FAST)
    v_offsets = _tile_offsets(offs_n, offs_d, stride_vn, stride_vd, WIDE, FAST)
    do_offsets = _tile_offsets(offs_m, offs_d, stride_don, stride_dod, WIDE, FAST_DO)
    d = _whole_units(d, q_ptr, FAST)
    in_d = (offs_d < d)[None, :]

    row0 = head.to(tl.int64) * Nq + m0
    is_query = offs_m < Nq - m0
    lse = tl.load(lse_ptr + row0 + offs_m, mask=is_query, other=-float("inf"))
    sees = lse != -float("inf")
    # What a row that sees nothing, or is not there, gives must be exp2(-inf) = 0.
    lse_log2 = tl.where(sees, lse, float("inf")) * _LOG2_E
    delta = tl.load(delta_ptr + row0 + offs_m, mask=sees, other=0.0)
    q = _load_rows(q_ptr, q_offsets, sees[:, None], in_d, True, PAD_D, FAST)
    do = _load_rows(do_ptr, do_offsets, sees[:, None], in_d, True, PAD_D, FAST_DO)
    if WIDEN:
        q = _widen(q)
        do = _widen(do)

    dq = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    dq, k_ptr, v_ptr = _visit_keys(
        dq, q, do, lse_log2, delta, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, 0, full, visible, BLOCK_N, PAD_D, False, FAST, ZERO_SCALE, WIDEN,
    )  # fmt: skip
    dq, _, _ = _visit_keys(
        dq, q, do, lse_log2, delta, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, full, visible, visible, BLOCK_N, PAD_D, True, FAST, ZERO_SCALE, WIDEN,
    )  # fmt: skip
    dq = dq * scale
    if ZERO_SCALE:
        dq = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    _store_rows(dq_ptr, dq, row0, offs_m, is_query, offs_d, in_d, d, PAD_D, FAST, WIDEN)
