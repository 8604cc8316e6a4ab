"""FlashAttention backward for Hopper in Gluon: dQ, warp specialised, operands by TMA, products by wgmma.

A program works through query tiles in the order of the forward pass. Each of two warpgroups has 64 rows of Q and dO,
and for every key tile, from the last to the first, computes

    S = Q K^T    P = exp2(scale S - LSE)    dP = dO V^T    dS = P (dP - delta)    dQ += dS K

with dS passing from registers into the last product. While one warpgroup takes exponentials, the other's products run.
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

# Warpgroups that compute.
_GROUPS = gl.constexpr(2)


@gluon.jit
def _load_q(q_desc, do_desc, q_ring, do_ring, q_full, geometry, units, SLOTS: gl.constexpr, CAUSAL: gl.constexpr):
    """One warp: Q and dO of each step, a part for each warpgroup."""
    ROWS: gl.constexpr = q_ring.shape[3]
    Q_SLOTS: gl.constexpr = q_ring.shape[0] // _GROUPS
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hq, _hk, m0 = _place(step, geometry, _GROUPS * ROWS, CAUSAL)
        if is_due:
            if loaded >= Q_SLOTS:
                _acquire(_FIRST_FREE + 2 * SLOTS + slot, _GROUPS)
            full = q_full.index(slot)
            mbarrier.expect(full, 2 * _GROUPS * q_desc.block_type.nbytes)
            for part in gl.static_range(_GROUPS):
                rows = [b, hq, m0 + part * ROWS, 0]
                tma.async_copy_global_to_shared(q_desc, rows, full, q_ring.index(slot * _GROUPS + part))
                tma.async_copy_global_to_shared(do_desc, rows, full, do_ring.index(slot * _GROUPS + part))
            loaded += 1
            slot, phase = _next(slot, phase, Q_SLOTS)


@gluon.jit
def _consume(
    dq_desc,
    rings,
    full,
    stats_ptr,
    stride_stats,
    heads,
    scale,
    scale_log2,
    geometry,
    units,
    PART: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A warpgroup: dQ of its part of each query tile."""
    q_ring, do_ring, k_ring, v_ring = rings
    q_full, k_full, v_full = full
    _seqlens, _stride, Hq, _group, Nq, _Nk, _q_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    ROWS: gl.constexpr = q_ring.shape[3]
    BLOCK_D: gl.constexpr = q_ring.shape[4]
    BLOCK_N: gl.constexpr = k_ring.shape[3]
    SLOTS: gl.constexpr = k_ring.shape[0]
    Q_SLOTS: gl.constexpr = q_ring.shape[0] // _GROUPS
    S: gl.constexpr = _wgmma_layout(BLOCK_N)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    FREE_K: gl.constexpr = _FIRST_FREE
    FREE_V: gl.constexpr = _FIRST_FREE + SLOTS
    FREE_Q: gl.constexpr = _FIRST_FREE + 2 * SLOTS
    slot = 0
    phase = 0
    q_slot = 0
    q_phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hq, _hk, m0 = _place(step, geometry, _GROUPS * ROWS, CAUSAL)
        if is_due:
            kv_len, shift, whole, tiles = _keys(b, m0, geometry, _GROUPS * ROWS, BLOCK_N, CAUSAL)
            row0 = m0 + PART * ROWS
            rows = row0 + gl.arange(0, ROWS, layout=gl.SliceLayout(1, S))
            stats_rows = stats_ptr + (b * Hq + hq).to(gl.int64) * stride_stats + rows
            lse = gl.load(stats_rows, mask=rows < Nq, other=0.0)
            delta = gl.load(stats_rows + heads.to(gl.int64) * stride_stats, mask=rows < Nq, other=0.0)
            dq = gl.zeros([ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(q_full.index(q_slot), q_phase)
            q = q_ring.index(q_slot * _GROUPS + PART).reshape([ROWS, BLOCK_D])
            do = do_ring.index(q_slot * _GROUPS + PART).reshape([ROWS, BLOCK_D])
            for i in range(0, tiles):
                n = tiles - 1 - i
                k = k_ring.index(slot).reshape([BLOCK_N, BLOCK_D])
                v = v_ring.index(slot).reshape([BLOCK_N, BLOCK_D])
                zero = gl.zeros([ROWS, BLOCK_N], gl.float32, layout=S)
                mbarrier.wait(k_full.index(slot), phase)
                s_token = warpgroup_mma(q, k.permute((1, 0)), zero, use_acc=False, is_async=True)
                mbarrier.wait(v_full.index(slot), phase)
                dp_token = warpgroup_mma(do, v.permute((1, 0)), zero, use_acc=False, is_async=True)
                s = warpgroup_mma_wait(1, deps=(s_token,))
                p = gl.exp2(s * scale_log2 - lse[:, None])
                if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                    if n >= whole:
                        p = gl.where(_is_seen(S, n, row0, kv_len, shift, ROWS, BLOCK_N, CAUSAL), p, 0.0)
                dp, p = warpgroup_mma_wait(0, deps=(dp_token, p))
                _release(FREE_V + slot, _GROUPS)
                ds_low = gl.convert_layout((p * (dp - delta[:, None])).to(dtype), A)
                dq_token = warpgroup_mma(ds_low, k, dq, is_async=True)
                # The product reads dS in registers, which must stay its own until here.
                dq, ds_low = warpgroup_mma_wait(0, deps=(dq_token, ds_low))
                _release(FREE_K + slot, _GROUPS)
                slot, phase = _next(slot, phase, SLOTS)
            # No other warpgroup uses this part of Q, so dQ leaves through it.
            q.store((dq * scale).to(dtype))
            fence_async_shared()
            _sync()
            tma.async_copy_shared_to_global(dq_desc, [b, hq, row0, 0], q_ring.index(q_slot * _GROUPS + PART))
            tma.store_wait(0)
            _sync()
            _release(FREE_Q + q_slot, _GROUPS)
            q_slot, q_phase = _next(q_slot, q_phase, Q_SLOTS)


@gluon.jit(
    do_not_specialize=[
        *("stats_ptr", "seqlens_ptr", "stride_stats", "stride_seqlens", "Hq", "group", "Nq", "Nk", "q_tiles"),
        *("lower_right", "heads", "units", "scale", "scale_log2"),
    ]
)
def _backward_q_hopper(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    dq_desc,
    stats_ptr,
    seqlens_ptr,
    stride_stats: gl.int64,
    stride_seqlens: gl.int64,
    Hq: gl.int32,
    group: gl.int32,
    Nq: gl.int32,
    Nk: gl.int32,
    q_tiles: gl.int32,
    lower_right: gl.int32,
    heads: gl.int32,
    units: gl.int32,
    scale: gl.float32,
    scale_log2: gl.float32,
    SLOTS: gl.constexpr,
    Q_SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A program of the grid, which has as many as the device has multiprocessors, or fewer.

    Descriptors are of (B, H, N, d) tensors, in blocks [1, 1, 64, BLOCK_D] of Q, dO and dQ and [1, 1, BLOCK_N, BLOCK_D]
    of K and V; stats_ptr is LSE and delta from `_delta`, in rows of stride_stats. `units` are the query tiles of all
    heads, or their pairs where causal; the rest as in `_backward_kv_hopper`. Constexprs: SLOTS tiles of K and V, and
    Q_SLOTS query tiles, fit their rings; MASKED says that some row sees some tile in part.
    """
    dtype: gl.constexpr = q_desc.dtype
    ROWS: gl.constexpr = q_desc.block_type.shape[2]
    BLOCK_D: gl.constexpr = q_desc.block_type.shape[3]
    BLOCK_N: gl.constexpr = k_desc.block_type.shape[2]
    BLOCK_M: gl.constexpr = _GROUPS * ROWS
    q_ring = gl.allocate_shared_memory(dtype, [Q_SLOTS * _GROUPS, 1, 1, ROWS, BLOCK_D], q_desc.layout)
    do_ring = gl.allocate_shared_memory(dtype, [Q_SLOTS * _GROUPS, 1, 1, ROWS, BLOCK_D], do_desc.layout)
    k_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_N, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_N, BLOCK_D], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [Q_SLOTS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for j in gl.static_range(Q_SLOTS):
        mbarrier.init(q_full.index(j), count=1)
    for j in gl.static_range(SLOTS):
        mbarrier.init(k_full.index(j), count=1)
        mbarrier.init(v_full.index(j), count=1)
    fence_async_shared()

    rings = (q_ring, do_ring, k_ring, v_ring)
    full = (q_full, k_full, v_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, q_tiles, lower_right)
    # fmt: off
    gl.warp_specialize([
        (_consume, (dq_desc, rings, full, stats_ptr, stride_stats, heads, scale, scale_log2, geometry, units, 0, CAUSAL, MASKED)),  # noqa: E501
        (_consume, (dq_desc, rings, full, stats_ptr, stride_stats, heads, scale, scale_log2, geometry, units, 1, CAUSAL, MASKED)),  # noqa: E501
        (_load_kv, (k_desc, v_desc, k_ring, v_ring, k_full, v_full, geometry, units, BLOCK_M, _GROUPS, CAUSAL)),
        (_load_q, (q_desc, do_desc, q_ring, do_ring, q_full, geometry, units, SLOTS, CAUSAL)),
    ], [4, 1, 1], [REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
