"""FlashAttention forward in Triton: one source for the interpreter and the compiler.

Online softmax over key tiles with a running max m, a running sum l and an accumulator in fp32
(Dao et al., https://arxiv.org/abs/2205.14135 and https://arxiv.org/abs/2307.08691). No Nq x Nk tensor exists.

A query tile visits its wholly visible key tiles first, in a loop without a mask, then the tiles that the diagonal
or the end of the keys cuts, in a loop with one. Key tiles that no row of the query tile sees are never visited.
"""

import triton
import triton.language as tl

from .mask import _diagonal, _length, _limits_of_tile, _sees
from .tile import (
    _load_queries,
    _load_rows,
    _narrow,
    _place_query_tile,
    _store_rows,
    _tile_offsets,
    _whole_units,
    _widen,
)

# A fuzzer throws every length, stride and alignment at the kernel: none of them may compile a variant of its own.
_NOT_SPECIALIZED = [
    *("q_ptr", "k_ptr", "v_ptr", "o_ptr", "lse_ptr", "seqlens_ptr"),
    *("stride_qb", "stride_qh", "stride_qn", "stride_qd", "stride_kb", "stride_kh", "stride_kn", "stride_kd"),
    *("stride_vb", "stride_vh", "stride_vn", "stride_vd", "stride_seqlens"),
    *("heads", "Hq", "group", "Nq", "Nk", "d", "lower_right", "section", "scale_log2"),
]


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
):
    """Visit the key tiles of [start, stop), one online softmax step each.

    Returns acc, m, l and the advanced pointers.

    m is the running max of the scores in log2 units, l the running sum of exp2(score - m); key columns at or past
    `visible` are not read, and with MASKED row i sees the columns below row_limit[i].
    """
    io_dtype = v_ptr.dtype.element_ty
    for n0 in tl.range(start, stop, BLOCK_N, num_stages=1 if MASKED else None, disable_licm=MASKED):
        columns = n0 + offs_n
        readable = (columns < visible)[:, None]
        k = _load_rows(k_ptr, k_offsets, readable, in_d, MASKED, PAD_D, FAST)
        if WIDEN:
            k = _widen(k)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        v = _load_rows(v_ptr, v_offsets, readable, in_d, MASKED, PAD_D, FAST)
        # scale_log2 > 0, so scaling commutes with the max, and scaling and subtracting it are one FMA.
        if MASKED:
            scores = tl.where(_sees(columns[None, :], row_limit), scores, -float("inf"))
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
    return acc, m, l, k_ptr, v_ptr


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def _forward(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,
    seqlens_ptr,
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One query tile of one head. `heads` is B * Hq; `section` heads share the L2 cache.

    Constexprs: PAD_D masks the columns from d to BLOCK_D; FAST promises unit d strides and 16-byte aligned rows; WIDE
    keeps offsets inside a tile in 64 bits; SIGN, that of the scale, goes into q, exactly, since max and scaling
    commute only for scale_log2 > 0; WIDEN mends bf16 under the interpreter.
    """
    head, b, hq, hk, m0 = _place_query_tile(heads, Hq, group, Nq, section, BLOCK_M, CAUSAL)
    kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    diagonal = _diagonal(kv_len, Nq, lower_right)
    full, visible, row_limit = _limits_of_tile(m0, offs_m, diagonal, kv_len, Nq, BLOCK_M, BLOCK_N, CAUSAL)

    # 64-bit offsets to the tile, 32-bit ones inside it where they suffice.
    q_ptr += b * stride_qb + hq * stride_qh + m0.to(tl.int64) * stride_qn
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
    q = _load_queries(q_ptr, q_offsets, is_query, in_d, PAD_D, FAST, WIDEN, SIGN)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    acc, m, l, k_ptr, v_ptr = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, 0, full, visible, BLOCK_N, PAD_D, False, FAST, WIDEN,
    )  # fmt: skip
    acc, m, l, _, _ = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, full, visible, visible, BLOCK_N, PAD_D, True, FAST, WIDEN,
    )  # fmt: skip

    l = tl.where(l == 0.0, 1.0, l)
    lse = (m + tl.math.log2(l)) * 0.6931471805599453
    row0 = head.to(tl.int64) * Nq + m0
    tl.store(lse_ptr + row0 + offs_m, lse, mask=is_query)
    acc = acc * (1.0 / l)[:, None]
    _store_rows(o_ptr, acc, row0, offs_m, is_query, offs_d, in_d, d, PAD_D, FAST, WIDEN)
