"""FlashAttention forward for few query rows, as in decoding: the rows of a whole group of heads share a tile.

K and V are then read once for the group, and the keys are cut into parts that run side by side, since there are too few
rows to fill a device. A second kernel merges the parts by their running max and sum.
"""

import triton
import triton.language as tl

from .forward import _visit
from .mask import _diagonal, _length, _limits
from .tile import _load_queries, _narrow, _tile_offsets, _whole_units

_NOT_SPECIALIZED = [
    *("q_ptr", "k_ptr", "v_ptr", "o_ptr", "lse_ptr", "seqlens_ptr", "acc_ptr", "m_ptr", "l_ptr"),
    *("stride_qb", "stride_qh", "stride_qn", "stride_qd", "stride_kb", "stride_kh", "stride_kn", "stride_kd"),
    *("stride_vb", "stride_vh", "stride_vn", "stride_vd", "stride_seqlens"),
    *("Hk", "group", "Nq", "Nk", "d", "lower_right", "part", "parts", "scale_log2"),
]


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def _decode(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,
    seqlens_ptr,
    acc_ptr,
    m_ptr,
    l_ptr,
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
    Hk: tl.int32,
    group: tl.int32,
    Nq: tl.int32,
    Nk: tl.int32,
    d: tl.int32,
    lower_right: tl.int32,
    part: tl.int32,
    parts: tl.int32,
    scale_log2,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_SEQLENS: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    WIDE: tl.constexpr,
    SIGN: tl.constexpr,
    WIDEN: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One tile of the rows of one KV head, over one part of the keys.

    Row r of a KV head is query r // group of head r % group of its group, so rows see more keys from one to the next.
    `part` keys, a multiple of BLOCK_N, make a part, of which there are `parts`. SPLIT stores acc, m and l for `_merge`,
    otherwise there is one part and O and LSE are stored. The other constexprs are those of `_forward`.
    """
    # The tiles of one KV head and part are neighbours: what one of them reads the next finds in the L2 cache.
    pid = tl.program_id(0)
    rows = group * Nq
    row_tiles = (rows + BLOCK_M - 1) // BLOCK_M
    kv_part = pid // row_tiles
    r0 = (pid - kv_part * row_tiles) * BLOCK_M
    kv_head = kv_part // parts
    p = kv_part - kv_head * parts
    b = (kv_head // Hk).to(tl.int64)
    hk = kv_head - kv_head // Hk * Hk

    kv_len = _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    r = r0 + tl.arange(0, BLOCK_M)
    i = r // group
    h = hk * group + r - i * group
    is_query = r < rows

    # The limits inside this part of the keys.
    start = p * part
    stop = tl.minimum(kv_len, start + part)
    diagonal = _diagonal(kv_len, Nq, lower_right)
    last = (tl.minimum(r0 + BLOCK_M, rows) - 1) // group
    full, visible, row_limit = _limits(r0 // group + diagonal, last + diagonal, i + diagonal, stop, kv_len, CAUSAL)
    full = start + tl.maximum(full - start, 0) // BLOCK_N * BLOCK_N

    k_ptr += b * stride_kb + hk.to(tl.int64) * stride_kh + start.to(tl.int64) * stride_kn
    v_ptr += b * stride_vb + hk.to(tl.int64) * stride_vh + start.to(tl.int64) * stride_vn
    k_step = stride_kn.to(tl.int64) * BLOCK_N
    v_step = stride_vn.to(tl.int64) * BLOCK_N
    q_offsets = b * stride_qb + h.to(tl.int64)[:, None] * stride_qh + i.to(tl.int64)[:, None] * stride_qn
    if FAST:
        q_offsets += offs_d[None, :]
    else:
        q_offsets += offs_d[None, :] * stride_qd
    k_offsets = _tile_offsets(offs_n, offs_d, stride_kn, stride_kd, WIDE, FAST)
    v_offsets = _tile_offsets(offs_n, offs_d, stride_vn, stride_vd, WIDE, FAST)
    d = _whole_units(d, q_ptr, FAST)
    in_d = (offs_d < d)[None, :]
    q = _load_queries(q_ptr, q_offsets, is_query, in_d, PAD_D, FAST, WIDEN, SIGN)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    acc, m, l, k_ptr, v_ptr = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, start, full, visible, BLOCK_N, PAD_D, False, FAST, WIDEN,
    )  # fmt: skip
    acc, m, l, _, _ = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, full, visible, visible, BLOCK_N, PAD_D, True, FAST, WIDEN,
    )  # fmt: skip

    row = (b * Hk * group + h) * Nq + i
    in_q = is_query[:, None]
    if PAD_D:
        in_q = in_q & in_d
    if SPLIT:
        place = row * parts + p
        tl.store(m_ptr + place, m, mask=is_query)
        tl.store(l_ptr + place, l, mask=is_query)
        tl.store(acc_ptr + place[:, None] * d + offs_d[None, :], acc, mask=in_q)
    else:
        l = tl.where(l == 0.0, 1.0, l)
        tl.store(lse_ptr + row, (m + tl.math.log2(l)) * 0.6931471805599453, mask=is_query)
        acc = acc * (1.0 / l)[:, None]
        if WIDEN:
            acc = _narrow(acc)
        tl.store(o_ptr + row[:, None] * d + offs_d[None, :], acc.to(o_ptr.dtype.element_ty), mask=in_q)


@triton.jit(do_not_specialize=["o_ptr", "lse_ptr", "acc_ptr", "m_ptr", "l_ptr", "parts", "d"])
def _merge(
    o_ptr,
    lse_ptr,
    acc_ptr,
    m_ptr,
    l_ptr,
    parts: tl.int32,
    d: tl.int32,
    BLOCK_D: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """O and LSE of one row from its parts: the same online softmax once more, BLOCK_P parts a step.

    A part that saw no key has m = -inf and l = 0 and changes no bit, wherever it is.
    """
    row = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    m = tl.full([1], -float("inf"), tl.float32)
    l = tl.full([1], 0.0, tl.float32)
    acc = tl.full([BLOCK_D], 0.0, tl.float32)
    for p0 in range(0, parts, BLOCK_P):
        p = p0 + tl.arange(0, BLOCK_P)
        is_part = p < parts
        place = row * parts + p
        m_part = tl.load(m_ptr + place, mask=is_part, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(m_part, 0))
        m_finite = tl.where(m_new == -float("inf"), 0.0, m_new)
        weight = tl.math.exp2(m_part - m_finite)
        alpha = tl.math.exp2(m - m_finite)
        l_part = tl.load(l_ptr + place, mask=is_part, other=0.0)
        l = l * alpha + tl.sum(l_part * weight, 0)
        inside = is_part[:, None] & (offs_d < d)[None, :]
        part = tl.load(acc_ptr + place[:, None] * d + offs_d[None, :], mask=inside, other=0.0)
        acc = acc * alpha + tl.sum(part * weight[:, None], 0)
        m = m_new
    l = tl.where(l == 0.0, 1.0, l)
    tl.store(lse_ptr + row + tl.arange(0, 1), (m + tl.math.log2(l)) * 0.6931471805599453)
    acc = acc * (1.0 / l)
    if WIDEN:
        acc = _narrow(acc)
    tl.store(o_ptr + row * d + offs_d, acc.to(o_ptr.dtype.element_ty), mask=offs_d < d)
