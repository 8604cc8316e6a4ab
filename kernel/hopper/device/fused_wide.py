"""FlashAttention backward for Hopper in Gluon, in one kernel, for head dims up to 128: two warpgroups compute.

Each holds dK and dV of 64 keys and makes half the columns of dQ, of both parts' dS. It does so one visit later, so that
neither waits for the other: what it needs has long been there. `fused.py` says the rest.
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

from .backward_kv import _place_keys
from .common import _GROUP, _REGISTERS_TO_LOAD, _next, _release, _steps, _sync, _wgmma_layout
from .fused import (
    _PARTS,
    _ROWS,
    _add_by_copy,
    _arrive,
    _blot,
    _load_keys,
    _load_queries,
    _meet,
    _write_keys,
)
from .mask import _hide_unseen, _queries

# Named barriers: for each slot of Q and dO, that it has been read; after those, for each slot of dS and each part, that
# it is there.
_FREE_Q = gl.constexpr(6)
# Slots of dS: a part is read by the other warpgroup one visit later, and its slot is free once that is known here.
_DS_SLOTS = gl.constexpr(3)


@gluon.jit
def _start_dq(k_ring, ds_ring, ds_slot, PART: gl.constexpr):
    """Start a warpgroup's columns of dQ, of a slot of dS; returns the token."""
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    COLUMNS: gl.constexpr = BLOCK_D // _PARTS
    BLOCK_M: gl.constexpr = ds_ring.shape[2]
    zero = gl.zeros([BLOCK_M, COLUMNS], gl.float32, layout=_wgmma_layout(COLUMNS))
    k = k_ring.index(0).reshape([_ROWS, BLOCK_D]).slice(PART * COLUMNS, COLUMNS, 1)
    token = warpgroup_mma(ds_ring.index(_PARTS * ds_slot).permute((1, 0)), k, zero, use_acc=False, is_async=True)
    k = k_ring.index(1).reshape([_ROWS, BLOCK_D]).slice(PART * COLUMNS, COLUMNS, 1)
    return warpgroup_mma(ds_ring.index(_PARTS * ds_slot + 1).permute((1, 0)), k, token, is_async=True)


@gluon.jit
def _consume(
    dk_desc,
    dv_desc,
    sum_desc,
    rings,
    out,
    full,
    scale,
    scale_log2,
    geometry,
    units,
    PART: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A warpgroup: dK and dV of its part of each key tile, and its columns of each visit's dQ, one visit later."""
    k_ring, v_ring, q_ring, do_ring, stats, ds_ring = rings
    kv_full, kv_free, q_full, do_full = full
    _seqlens, _stride, Hq, group, Nq, _Nk, _k_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    SLOTS: gl.constexpr = q_ring.shape[0]
    FULL_DS: gl.constexpr = _FREE_Q + SLOTS
    S: gl.constexpr = _wgmma_layout(BLOCK_M)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    QUERY: gl.constexpr = gl.SliceLayout(0, S)
    COLUMN: gl.constexpr = PART * BLOCK_D // _PARTS
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    slot = 0
    phase = 0
    kv_phase = 0
    ds_slot = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            n0 = tile * (_PARTS * _ROWS)
            last = n0 + _PARTS * _ROWS
            key0 = n0 + PART * _ROWS
            kv_len, shift, first, end = _queries(b, n0, geometry, BLOCK_M, CAUSAL)
            dk = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            dv = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(kv_full.index(0), kv_phase)
            # TMA takes no offset of a slice, so parts have indices of their own.
            k = k_ring.index(PART).reshape([_ROWS, BLOCK_D])
            v = v_ring.index(PART).reshape([_ROWS, BLOCK_D])
            if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                if kv_len < last:
                    _blot(k, key0, kv_len, SUM)
                    _blot(v, key0, kv_len, SUM)
                    _sync()
            hq0 = b * Hq + hk * group
            # The query tile, among those of all heads, of the visit before.
            before = -1
            for member in range(0, group):
                for i in range(first, end):
                    q = q_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                    do = do_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                    zero = gl.zeros([_ROWS, BLOCK_M], gl.float32, layout=S)
                    mbarrier.wait(q_full.index(slot), phase)
                    s_token = warpgroup_mma(k, q.permute((1, 0)), zero, use_acc=False, is_async=True)
                    lse = stats.index(2 * slot).reshape([BLOCK_M]).load(QUERY)
                    mbarrier.wait(do_full.index(slot), phase)
                    dp_token = warpgroup_mma(v, do.permute((1, 0)), zero, use_acc=False, is_async=True)
                    s = warpgroup_mma_wait(1, deps=(s_token,))
                    p = gl.exp2(s * scale_log2 - lse[None, :])
                    p = _hide_unseen(p, key0, i * BLOCK_M + shift, last, kv_len, CAUSAL, MASKED)
                    p_low = gl.convert_layout(p.to(dtype), A)
                    dv_token = warpgroup_mma(p_low, do, dv, is_async=True)
                    delta = stats.index(2 * slot + 1).reshape([BLOCK_M]).load(QUERY)
                    dp = warpgroup_mma_wait(1, deps=(dp_token,))
                    ds = (p * (dp - delta[None, :])).to(dtype)
                    ds_ring.index(_PARTS * ds_slot + PART).store(ds)
                    fence_async_shared()
                    ds_low = gl.convert_layout(ds, A)
                    # Of the first visit nothing is there yet: what this product reads is thrown away.
                    read = gl.where(ds_slot == 0, _DS_SLOTS - 1, ds_slot - 1)
                    if before >= 0:
                        _meet(FULL_DS + _PARTS * read + (1 - PART), 2 * _GROUP)
                    dq_token = _start_dq(k_ring, ds_ring, read, PART)
                    dk_token = warpgroup_mma(ds_low, q, dk, is_async=True)
                    # The products read P and dS in registers, which must stay theirs until they are waited for.
                    dv, dq, p_low = warpgroup_mma_wait(1, deps=(dv_token, dq_token, p_low))
                    # Only now: who has waited for it may overwrite what that dQ was made of.
                    _arrive(FULL_DS + _PARTS * ds_slot + PART, 2 * _GROUP)
                    if before >= 0:
                        _add_by_copy(sum_desc, out.index(PART), dq, 0, before, COLUMN)
                    before = (hq0 + member) * q_tiles + i
                    dk, ds_low = warpgroup_mma_wait(0, deps=(dk_token, ds_low))
                    _release(_FREE_Q + slot, _PARTS)
                    ds_slot = gl.where(ds_slot == _DS_SLOTS - 1, 0, ds_slot + 1)
                    slot, phase = _next(slot, phase, SLOTS)
            if before >= 0:
                read = gl.where(ds_slot == 0, _DS_SLOTS - 1, ds_slot - 1)
                _meet(FULL_DS + _PARTS * read + (1 - PART), 2 * _GROUP)
                dq = warpgroup_mma_wait(0, deps=(_start_dq(k_ring, ds_ring, read, PART),))
                _add_by_copy(sum_desc, out.index(PART), dq, 0, before, COLUMN)
            # This part of V is no one else's, so both gradients leave through it; K's is still read by the other one.
            tma.store_wait(0)
            _sync()
            _write_keys(dv_desc, v_ring.index(PART), dv, b, hk, key0, kv_len)
            tma.store_wait(0)
            _sync()
            _write_keys(dk_desc, v_ring.index(PART), dk * scale, b, hk, key0, kv_len)
            tma.store_wait(0)
            mbarrier.arrive(kv_free.index(0))
            kv_phase ^= 1


@gluon.jit(
    do_not_specialize=[
        *("seqlens_ptr", "stride_seqlens", "Hq", "group", "Nq", "Nk", "k_tiles", "lower_right", "heads", "units"),
        *("scale", "scale_log2"),
    ]
)
def _backward_wide_hopper(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    stats_desc,
    dk_desc,
    dv_desc,
    sum_desc,
    seqlens_ptr,
    stride_seqlens: gl.int64,
    Hq: gl.int32,
    group: gl.int32,
    Nq: gl.int32,
    Nk: gl.int32,
    k_tiles: gl.int32,
    lower_right: gl.int32,
    heads: gl.int32,
    units: gl.int32,
    scale: gl.float32,
    scale_log2: gl.float32,
    SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A program of the grid, as `_backward_kv_hopper` has them, and with its arguments but for these.

    sum_desc: of the sum of dQ / scale, in fp32 and blocks [64, 64]. Constexprs: SLOTS tiles of Q and dO fit their
    rings; REGISTERS are a thread's that computes; MASKED says that some row sees some key tile in part.
    """
    dtype: gl.constexpr = q_desc.dtype
    BLOCK_D: gl.constexpr = k_desc.block_type.shape[3]
    BLOCK_M: gl.constexpr = q_desc.block_type.shape[2]
    k_ring = gl.allocate_shared_memory(dtype, [_PARTS, 1, 1, _ROWS, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [_PARTS, 1, 1, _ROWS, BLOCK_D], v_desc.layout)
    q_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], q_desc.layout)
    do_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], do_desc.layout)
    stats = gl.allocate_shared_memory(gl.float32, [2 * SLOTS, 1, BLOCK_M], stats_desc.layout)
    DS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    ds_ring = gl.allocate_shared_memory(dtype, [_DS_SLOTS * _PARTS, _ROWS, BLOCK_M], DS)
    out = gl.allocate_shared_memory(gl.float32, [_PARTS, BLOCK_M, BLOCK_D // _PARTS], sum_desc.layout)
    kv_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    kv_free = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    do_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    mbarrier.init(kv_full.index(0), count=1)
    mbarrier.init(kv_free.index(0), count=_PARTS)
    for j in gl.static_range(SLOTS):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(do_full.index(j), count=1)
    fence_async_shared()

    rings = (k_ring, v_ring, q_ring, do_ring, stats, ds_ring)
    full = (kv_full, kv_free, q_full, do_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, k_tiles, lower_right)
    # fmt: off
    gl.warp_specialize([
        (_consume, (dk_desc, dv_desc, sum_desc, rings, out, full, scale, scale_log2, geometry, units, 0, CAUSAL, MASKED)),  # noqa: E501
        (_consume, (dk_desc, dv_desc, sum_desc, rings, out, full, scale, scale_log2, geometry, units, 1, CAUSAL, MASKED)),  # noqa: E501
        (_load_queries, (q_desc, do_desc, stats_desc, q_ring, do_ring, stats, (q_full, do_full), geometry, heads, units, _PARTS * _ROWS, _FREE_Q, CAUSAL)),  # noqa: E501
        (_load_keys, (k_desc, v_desc, k_ring, v_ring, kv_full, kv_free, geometry, units, _PARTS, CAUSAL)),
    ], [4, 1, 1], [REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
