"""FlashAttention forward for Hopper in Gluon: warp specialised, K and V by TMA, both products by wgmma.

A program stays on its multiprocessor and works through query tiles. One warp loads Q, one loads K and V into rings of
shared memory, and two or three warpgroups of 64 query rows each compute. A warpgroup issues S = Q K^T of a key tile and
P V of the tile before, and computes the softmax of S while P V runs, as FlashAttention-3 does
(Shah et al., https://arxiv.org/abs/2407.08608, section 3.2); the other warpgroups fill what gaps remain.

Key tiles are visited from the last to the first, so that the masked ones come first. For a causal problem a program
takes query tiles in pairs, the i-th last and then the i-th: all pairs of a head take the same time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .common import (
    _FIRST_FREE,
    _REGISTERS_TO_LOAD,
    _acquire,
    _load_kv,
    _next,
    _place,
    _release,
    _steps,
    _sync,
    _wgmma_layout,
)
from .mask import _is_seen, _keys

_LN2 = gl.constexpr(0.6931471805599453)


@gluon.jit
def _load_q(q_desc, q_ring, q_full, geometry, units, GROUPS: gl.constexpr, SLOTS: gl.constexpr, CAUSAL: gl.constexpr):
    """One warp: the Q tile of each step, a part for each warpgroup."""
    ROWS: gl.constexpr = q_ring.shape[3]
    Q_SLOTS: gl.constexpr = q_ring.shape[0] // GROUPS
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hq, _hk, m0 = _place(step, geometry, GROUPS * ROWS, CAUSAL)
        if is_due:
            if loaded >= Q_SLOTS:
                _acquire(_FIRST_FREE + 2 * SLOTS + slot, GROUPS)
            for part in gl.static_range(GROUPS):
                full = q_full.index(slot * GROUPS + part)
                mbarrier.expect(full, q_desc.block_type.nbytes)
                rows = [b, hq, m0 + part * ROWS, 0]
                tma.async_copy_global_to_shared(q_desc, rows, full, q_ring.index(slot * GROUPS + part))
            loaded += 1
            slot, phase = _next(slot, phase, Q_SLOTS)


@gluon.jit
def _start_s(q, k_ring, slot):
    """Start S = Q K^T with the K of a slot; returns its token."""
    ROWS: gl.constexpr = q.shape[0]
    BLOCK_N: gl.constexpr = k_ring.shape[3]
    k = k_ring.index(slot).reshape([BLOCK_N, k_ring.shape[4]])
    zero = gl.zeros([ROWS, BLOCK_N], gl.float32, layout=_wgmma_layout(BLOCK_N))
    return warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)


@gluon.jit
def _start_o(p, v_ring, slot, acc):
    """Start acc += P V with the V of a slot; returns its token."""
    v = v_ring.index(slot).reshape([v_ring.shape[3], v_ring.shape[4]])
    return warpgroup_mma(p, v, acc, is_async=True)


@gluon.jit
def _mask(s, n, row0, kv_len, shift, CAUSAL: gl.constexpr):
    """Scores of key tile n, -inf where a row does not see the key or an earlier tile holds it."""
    layout: gl.constexpr = s.type.layout
    ROWS: gl.constexpr = s.shape[0]
    BLOCK_N: gl.constexpr = s.shape[1]
    is_seen = _is_seen(layout, n, row0, kv_len, shift, ROWS, BLOCK_N, CAUSAL)
    return gl.where(is_seen, s, -float("inf"))


@gluon.jit
def _softmax(s, m, l, scale_log2, MASKED: gl.constexpr):
    """One online softmax step: P (not normalised), the factor of what was summed before, the new l and m (log2)."""
    m_new = gl.maximum(m, gl.max(s, 1) * scale_log2)
    m_finite = m_new
    if MASKED:
        # A row that has seen no key yet keeps m = -inf; -inf - -inf would be NaN.
        m_finite = gl.where(m_new == -float("inf"), 0.0, m_new)
    p = gl.exp2(s * scale_log2 - m_finite[:, None])
    alpha = gl.exp2(m - m_finite)
    return p, alpha, l * alpha + gl.sum(p, 1), m_new


@gluon.jit
def _consume(
    o_desc,
    rings,
    o_part,
    full,
    lse_ptr,
    scale_log2,
    geometry,
    units,
    PART: gl.constexpr,
    GROUPS: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
    NEGATIVE: gl.constexpr,
):
    """A warpgroup: attention of its part of each Q tile."""
    q_ring, k_ring, v_ring = rings
    q_full, k_full, v_full = full
    _seqlens, _stride, Hq, _group, Nq, _Nk, _q_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    ROWS: gl.constexpr = q_ring.shape[3]
    BLOCK_D: gl.constexpr = q_ring.shape[4]
    BLOCK_N: gl.constexpr = k_ring.shape[3]
    SLOTS: gl.constexpr = k_ring.shape[0]
    Q_SLOTS: gl.constexpr = q_ring.shape[0] // GROUPS
    S: gl.constexpr = _wgmma_layout(BLOCK_N)
    O: gl.constexpr = _wgmma_layout(BLOCK_D)
    P: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O, k_width=2)
    FREE_K: gl.constexpr = _FIRST_FREE
    FREE_V: gl.constexpr = _FIRST_FREE + SLOTS
    FREE_Q: gl.constexpr = _FIRST_FREE + 2 * SLOTS
    slot = 0
    phase = 0
    q_slot = 0
    q_phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hq, _hk, m0 = _place(step, geometry, GROUPS * ROWS, CAUSAL)
        if is_due:
            kv_len, shift, whole, tiles = _keys(b, m0, geometry, GROUPS * ROWS, BLOCK_N, CAUSAL)
            row0 = m0 + PART * ROWS
            m = gl.full([ROWS], -float("inf"), gl.float32, layout=gl.SliceLayout(1, S))
            l = gl.full([ROWS], 0.0, gl.float32, layout=gl.SliceLayout(1, S))
            acc = gl.zeros([ROWS, BLOCK_D], gl.float32, layout=O)
            mbarrier.wait(q_full.index(q_slot * GROUPS + PART), q_phase)
            q = q_ring.index(q_slot * GROUPS + PART).reshape([ROWS, BLOCK_D])
            if tiles > 0:
                # The first tile has no P V before it.
                mbarrier.wait(k_full.index(slot), phase)
                s_token = _start_s(q, k_ring, slot)
                s = warpgroup_mma_wait(0, deps=(s_token,))
                _release(FREE_K + slot, GROUPS)
                if NEGATIVE:
                    s = -s
                if MASKED:
                    s = _mask(s, tiles - 1, row0, kv_len, shift, CAUSAL)
                p32, alpha, l, m = _softmax(s, m, l, scale_log2, MASKED)
                p = gl.convert_layout(p32.to(dtype), P)
                v_slot = slot
                v_phase = phase
                slot, phase = _next(slot, phase, SLOTS)
                mbarrier.wait(k_full.index(slot), phase, pred=tiles > 1)
                for i in range(1, tiles):
                    n = tiles - 1 - i
                    s_token = _start_s(q, k_ring, slot)
                    mbarrier.wait(v_full.index(v_slot), v_phase)
                    o_token = _start_o(p, v_ring, v_slot, acc)
                    s = warpgroup_mma_wait(1, deps=(s_token,))
                    _release(FREE_K + slot, GROUPS)
                    if NEGATIVE:
                        s = -s
                    if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                        if n >= whole:
                            s = _mask(s, n, row0, kv_len, shift, CAUSAL)
                    p32, alpha, l, m = _softmax(s, m, l, scale_log2, MASKED)
                    # The wait for the next K is here, since it is a loop in the machine code: in a straight line
                    # ptxas would move the wait for P V above the exponentials, and nothing would overlap.
                    next_slot, next_phase = _next(slot, phase, SLOTS)
                    mbarrier.wait(k_full.index(next_slot), next_phase, pred=n > 0)
                    acc, p32 = warpgroup_mma_wait(0, deps=(o_token, p32))
                    _release(FREE_V + v_slot, GROUPS)
                    # P is rounded only now: until here P V was reading the registers of the P before.
                    p = gl.convert_layout(p32.to(dtype), P)
                    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, O))[:, None]
                    v_slot = slot
                    v_phase = phase
                    slot = next_slot
                    phase = next_phase
                _release(FREE_Q + q_slot, GROUPS)
                mbarrier.wait(v_full.index(v_slot), v_phase)
                o_token = _start_o(p, v_ring, v_slot, acc)
                acc = warpgroup_mma_wait(0, deps=(o_token,))
                _release(FREE_V + v_slot, GROUPS)
            else:
                _release(FREE_Q + q_slot, GROUPS)
            q_slot, q_phase = _next(q_slot, q_phase, Q_SLOTS)
            l = gl.where(l == 0.0, 1.0, l)
            rows = row0 + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S))
            lse_rows = lse_ptr + (b * Hq + hq).to(gl.int64) * Nq + rows
            gl.store(lse_rows, (m + gl.log2(l)) * _LN2, mask=rows < Nq)
            acc = acc * (1.0 / gl.convert_layout(l, gl.SliceLayout(1, O)))[:, None]
            _write(o_desc, o_part, acc.to(dtype), b, hq, row0)
    tma.store_wait(0)


@gluon.jit
def _write(o_desc, o_part, o, b, hq, row0):
    """Copy a tile of O to memory through this warpgroup's buffer; TMA leaves out what lies past Nq and d."""
    ROWS: gl.constexpr = o.shape[0]
    WIDTH: gl.constexpr = o_part.shape[3]
    if o.shape[1] == WIDTH:
        _write_columns(o_desc, o_part, o, b, hq, row0, 0)
    else:
        # The buffer holds half the columns.
        left, right = gl.split(gl.permute(gl.reshape(o, [ROWS, 2, WIDTH]), (0, 2, 1)))
        _write_columns(o_desc, o_part, left, b, hq, row0, 0)
        _write_columns(o_desc, o_part, right, b, hq, row0, WIDTH)


@gluon.jit
def _write_columns(o_desc, o_part, o, b, hq, row0, column):
    tma.store_wait(0)
    _sync()
    o_part.reshape([o.shape[0], o.shape[1]]).store(o)
    fence_async_shared()
    _sync()
    tma.async_copy_shared_to_global(o_desc, [b, hq, row0, column], o_part)


@gluon.jit(
    do_not_specialize=[
        *("lse_ptr", "seqlens_ptr", "stride_seqlens", "Hq", "group", "Nq", "Nk", "q_tiles", "lower_right", "units"),
        "scale_log2",
    ]
)
def _forward_hopper(
    q_desc,
    k_desc,
    v_desc,
    o_desc,
    lse_ptr,
    seqlens_ptr,
    stride_seqlens: gl.int64,
    Hq: gl.int32,
    group: gl.int32,
    Nq: gl.int32,
    Nk: gl.int32,
    q_tiles: gl.int32,
    lower_right: gl.int32,
    units: gl.int32,
    scale_log2: gl.float32,
    GROUPS: gl.constexpr,
    SLOTS: gl.constexpr,
    Q_SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
    NEGATIVE: gl.constexpr,
):
    """A program of the grid, which has as many as the device has multiprocessors, or fewer.

    Descriptors are of (B, H, N, d) tensors, in blocks [1, 1, 64, BLOCK_D] of Q, [1, 1, BLOCK_N, BLOCK_D] of K and V,
    and [1, 1, 64, BLOCK_D or half of it] of O. `units` are the query tiles of all heads, or their pairs where causal.
    Constexprs: GROUPS warpgroups compute, each with REGISTERS a thread; SLOTS K and V tiles and Q_SLOTS Q tiles fit
    their rings; MASKED says that some row sees some tile in part; NEGATIVE that the scale is below 0.
    """
    dtype: gl.constexpr = q_desc.dtype
    ROWS: gl.constexpr = q_desc.block_type.shape[2]
    BLOCK_D: gl.constexpr = q_desc.block_type.shape[3]
    BLOCK_N: gl.constexpr = k_desc.block_type.shape[2]
    WIDTH: gl.constexpr = o_desc.block_type.shape[3]
    BLOCK_M: gl.constexpr = GROUPS * ROWS
    q_ring = gl.allocate_shared_memory(dtype, [Q_SLOTS * GROUPS, 1, 1, ROWS, BLOCK_D], q_desc.layout)
    k_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_N, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_N, BLOCK_D], v_desc.layout)
    o = gl.allocate_shared_memory(dtype, [GROUPS, 1, 1, ROWS, WIDTH], o_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [Q_SLOTS * GROUPS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(Q_SLOTS * GROUPS):
        mbarrier.init(q_full.index(i), count=1)
    for i in gl.static_range(SLOTS):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(v_full.index(i), count=1)
    fence_async_shared()

    rings = (q_ring, k_ring, v_ring)
    full = (q_full, k_full, v_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, q_tiles, lower_right)
    # Constexprs kept in a variable together would become tensors, so the arguments are spelled out.
    # fmt: off
    if GROUPS == 2:
        gl.warp_specialize([
            (_consume, (o_desc, rings, o.index(0), full, lse_ptr, scale_log2, geometry, units, 0, GROUPS, CAUSAL, MASKED, NEGATIVE)),  # noqa: E501
            (_consume, (o_desc, rings, o.index(1), full, lse_ptr, scale_log2, geometry, units, 1, GROUPS, CAUSAL, MASKED, NEGATIVE)),  # noqa: E501
            (_load_kv, (k_desc, v_desc, k_ring, v_ring, k_full, v_full, geometry, units, BLOCK_M, GROUPS, CAUSAL)),
            (_load_q, (q_desc, q_ring, q_full, geometry, units, GROUPS, SLOTS, CAUSAL)),
        ], [4, 1, 1], [REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    else:
        gl.warp_specialize([
            (_consume, (o_desc, rings, o.index(0), full, lse_ptr, scale_log2, geometry, units, 0, GROUPS, CAUSAL, MASKED, NEGATIVE)),  # noqa: E501
            (_consume, (o_desc, rings, o.index(1), full, lse_ptr, scale_log2, geometry, units, 1, GROUPS, CAUSAL, MASKED, NEGATIVE)),  # noqa: E501
            (_consume, (o_desc, rings, o.index(2), full, lse_ptr, scale_log2, geometry, units, 2, GROUPS, CAUSAL, MASKED, NEGATIVE)),  # noqa: E501
            (_load_kv, (k_desc, v_desc, k_ring, v_ring, k_full, v_full, geometry, units, BLOCK_M, GROUPS, CAUSAL)),
            (_load_q, (q_desc, q_ring, q_full, geometry, units, GROUPS, SLOTS, CAUSAL)),
        ], [4, 4, 1, 1], [REGISTERS, REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
