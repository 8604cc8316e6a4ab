"""FlashAttention backward for Hopper in Gluon, in one kernel, for head dims up to 256: two warpgroups compute.

A program has 64 keys. One warpgroup computes P and holds dV, the other one computes dS and holds dK, each of all 64
keys: neither has the registers for both. P passes from the first to the second in fp32, dS from the second to the
first, and each makes half the columns of dQ. `fused.py` says the rest.
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
    _ROWS,
    _add_by_atomics,
    _arrive,
    _blot,
    _load_keys,
    _load_queries,
    _meet,
    _write_keys,
)
from .mask import _hide_unseen, _queries

# Named barriers: for each slot of Q and dO, that it has been read; that P is there, and that it has been read; for each
# slot of dS, that it is there, and that the other warpgroup has read it.
_FREE_Q = gl.constexpr(6)
_FULL_P = gl.constexpr(8)
_FREE_P = gl.constexpr(9)
_FULL_DS = gl.constexpr(10)
_FREE_DS = gl.constexpr(12)
_GROUPS = gl.constexpr(2)


@gluon.jit
def _start_dq(k, ds_ring, ds_slot, PART: gl.constexpr):
    """Start a warpgroup's columns of dQ, of a slot of dS; returns the token."""
    COLUMNS: gl.constexpr = k.shape[1] // _GROUPS
    BLOCK_M: gl.constexpr = ds_ring.shape[2]
    zero = gl.zeros([BLOCK_M, COLUMNS], gl.float32, layout=_wgmma_layout(COLUMNS))
    columns = k.slice(PART * COLUMNS, COLUMNS, 1)
    return warpgroup_mma(ds_ring.index(ds_slot).permute((1, 0)), columns, zero, use_acc=False, is_async=True)


@gluon.jit
def _swap_out(x):
    """A tile in the order of its registers, flat, for a thread of the other warpgroup that has the same place."""
    return x.reshape([4, 2, 8, x.shape[1] // 8, 4, 2]).permute([3, 0, 2, 4, 1, 5]).reshape([x.shape[0] * x.shape[1]])


@gluon.jit
def _swap_in(x, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """The tile that `_swap_out` made flat."""
    return x.reshape([COLUMNS // 8, 4, 8, 4, 2, 2]).permute([1, 4, 2, 0, 3, 5]).reshape([ROWS, COLUMNS])


@gluon.jit
def _hold_dv(
    dv_desc,
    sum_ptr,
    rings,
    full,
    scale_log2,
    geometry,
    units,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A warpgroup: P and dV of each key tile, and the first half of dQ's columns, one visit later."""
    k_ring, v_ring, q_ring, do_ring, stats, p_buffer, ds_ring = rings
    kv_full, kv_free, q_full, do_full = full
    _seqlens, _stride, Hq, group, Nq, _Nk, _k_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    SLOTS: gl.constexpr = q_ring.shape[0]
    S: gl.constexpr = _wgmma_layout(BLOCK_M)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    QUERY: gl.constexpr = gl.SliceLayout(0, S)
    TILES: gl.constexpr = BLOCK_D // 64
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    slot = 0
    phase = 0
    kv_phase = 0
    ds_slot = 0
    sent = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            key0 = tile * _ROWS
            last = key0 + _ROWS
            kv_len, shift, first, end = _queries(b, key0, geometry, BLOCK_M, CAUSAL)
            dv = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(kv_full.index(0), kv_phase)
            k = k_ring.index(0).reshape([_ROWS, BLOCK_D])
            if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                if kv_len < last:
                    _blot(k, key0, kv_len, SUM)
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
                    s = warpgroup_mma_wait(0, deps=(s_token,))
                    p = gl.exp2(s * scale_log2 - lse[None, :])
                    p = _hide_unseen(p, key0, i * BLOCK_M + shift, last, kv_len, CAUSAL, MASKED)
                    if sent > 0:
                        _meet(_FREE_P, 2 * _GROUP)
                    p_buffer.store(_swap_out(p))
                    _arrive(_FULL_P, 2 * _GROUP)
                    sent = 1
                    p_low = gl.convert_layout(p.to(dtype), A)
                    mbarrier.wait(do_full.index(slot), phase)
                    dv_token = warpgroup_mma(p_low, do, dv, is_async=True)
                    # Of the first visit nothing is there yet: what this reads is thrown away.
                    if before >= 0:
                        _meet(_FULL_DS + (1 - ds_slot), 2 * _GROUP)
                    dq_token = _start_dq(k, ds_ring, 1 - ds_slot, 0)
                    dv, p_low = warpgroup_mma_wait(1, deps=(dv_token, p_low))
                    _release(_FREE_Q + slot, _GROUPS)
                    dq = warpgroup_mma_wait(0, deps=(dq_token,))
                    if before >= 0:
                        _arrive(_FREE_DS + (1 - ds_slot), 2 * _GROUP)
                        _add_by_atomics(sum_ptr, TILES * before, dq)
                    before = (hq0 + member) * q_tiles + i
                    ds_slot ^= 1
                    slot, phase = _next(slot, phase, SLOTS)
            if before >= 0:
                _meet(_FULL_DS + (1 - ds_slot), 2 * _GROUP)
                dq = warpgroup_mma_wait(0, deps=(_start_dq(k, ds_ring, 1 - ds_slot, 0),))
                _arrive(_FREE_DS + (1 - ds_slot), 2 * _GROUP)
                _add_by_atomics(sum_ptr, TILES * before, dq)
            # The other warpgroup has handed over its last dS, so it has read V for the last time.
            _write_keys(dv_desc, v_ring.index(0), dv, b, hk, key0, kv_len)
            tma.store_wait(0)
            mbarrier.arrive(kv_free.index(0))
            kv_phase ^= 1


@gluon.jit
def _hold_dk(
    dk_desc,
    sum_ptr,
    rings,
    full,
    scale,
    geometry,
    units,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A warpgroup: dS and dK of each key tile, and the second half of dQ's columns."""
    k_ring, v_ring, q_ring, do_ring, stats, p_buffer, ds_ring = rings
    kv_full, kv_free, q_full, do_full = full
    _seqlens, _stride, Hq, group, Nq, _Nk, _k_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    SLOTS: gl.constexpr = q_ring.shape[0]
    S: gl.constexpr = _wgmma_layout(BLOCK_M)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    QUERY: gl.constexpr = gl.SliceLayout(0, S)
    TILES: gl.constexpr = BLOCK_D // 64
    FLAT: gl.constexpr = _flat_layout()
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    slot = 0
    phase = 0
    kv_phase = 0
    ds_slot = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            key0 = tile * _ROWS
            kv_len, _shift, first, end = _queries(b, key0, geometry, BLOCK_M, CAUSAL)
            dk = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(kv_full.index(0), kv_phase)
            k = k_ring.index(0).reshape([_ROWS, BLOCK_D])
            v = v_ring.index(0).reshape([_ROWS, BLOCK_D])
            if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                if kv_len < key0 + _ROWS:
                    _blot(v, key0, kv_len, SUM)
                    _sync()
            hq0 = b * Hq + hk * group
            visit = 0
            for member in range(0, group):
                for i in range(first, end):
                    q = q_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                    do = do_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                    zero = gl.zeros([_ROWS, BLOCK_M], gl.float32, layout=S)
                    mbarrier.wait(do_full.index(slot), phase)
                    dp_token = warpgroup_mma(v, do.permute((1, 0)), zero, use_acc=False, is_async=True)
                    delta = stats.index(2 * slot + 1).reshape([BLOCK_M]).load(QUERY)
                    dp = warpgroup_mma_wait(0, deps=(dp_token,))
                    _meet(_FULL_P, 2 * _GROUP)
                    p = gl.convert_layout(_swap_in(p_buffer.load(FLAT), _ROWS, BLOCK_M), S, assert_trivial=True)
                    _arrive(_FREE_P, 2 * _GROUP)
                    ds = (p * (dp - delta[None, :])).to(dtype)
                    if visit > 1:
                        _meet(_FREE_DS + ds_slot, 2 * _GROUP)
                    ds_ring.index(ds_slot).store(ds)
                    fence_async_shared()
                    ds_low = gl.convert_layout(ds, A)
                    mbarrier.wait(q_full.index(slot), phase)
                    dk_token = warpgroup_mma(ds_low, q, dk, is_async=True)
                    _sync()
                    _arrive(_FULL_DS + ds_slot, 2 * _GROUP)
                    dq_token = _start_dq(k, ds_ring, ds_slot, 1)
                    dk, ds_low = warpgroup_mma_wait(1, deps=(dk_token, ds_low))
                    _release(_FREE_Q + slot, _GROUPS)
                    dq = warpgroup_mma_wait(0, deps=(dq_token,))
                    at = (hq0 + member) * q_tiles + i
                    _add_by_atomics(sum_ptr, TILES * at + TILES // 2, dq)
                    visit += 1
                    ds_slot ^= 1
                    slot, phase = _next(slot, phase, SLOTS)
            # dK leaves through K once the other warpgroup has read it for the last time.
            if visit > 1:
                _meet(_FREE_DS + ds_slot, 2 * _GROUP)
            if visit > 0:
                _meet(_FREE_DS + (1 - ds_slot), 2 * _GROUP)
            _write_keys(dk_desc, k_ring.index(0), dk * scale, b, hk, key0, kv_len)
            tma.store_wait(0)
            mbarrier.arrive(kv_free.index(0))
            kv_phase ^= 1


@gluon.constexpr_function
def _flat_layout():
    """Where 4 warps hold 64 x 64 elements that `_swap_out` made flat."""
    registers = [[1], [2], [512], [1024], [2048]]
    lanes = [[4], [8], [16], [32], [64]]
    return gl.DistributedLinearLayout(registers, lanes, [[128], [256]], [], [4096])


@gluon.jit(
    do_not_specialize=[
        *("seqlens_ptr", "stride_seqlens", "Hq", "group", "Nq", "Nk", "k_tiles", "lower_right", "heads", "units"),
        *("scale", "scale_log2"),
    ]
)
def _backward_widest_hopper(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    stats_desc,
    dk_desc,
    dv_desc,
    sum_ptr,
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
    """A program of the grid, as `_backward_kv_hopper` has them, but with 64 keys, and its arguments but for these.

    sum_ptr: the sum of dQ / scale, in fp32, in tiles as `_add_by_atomics` has them. Constexprs: SLOTS tiles of Q and dO
    fit their rings; REGISTERS are a thread's that computes; MASKED says that some row sees some key tile in part.
    """
    dtype: gl.constexpr = q_desc.dtype
    BLOCK_D: gl.constexpr = k_desc.block_type.shape[3]
    BLOCK_M: gl.constexpr = q_desc.block_type.shape[2]
    k_ring = gl.allocate_shared_memory(dtype, [1, 1, 1, _ROWS, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [1, 1, 1, _ROWS, BLOCK_D], v_desc.layout)
    q_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], q_desc.layout)
    do_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], do_desc.layout)
    stats = gl.allocate_shared_memory(gl.float32, [2 * SLOTS, 1, BLOCK_M], stats_desc.layout)
    DS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    ds_ring = gl.allocate_shared_memory(dtype, [2, _ROWS, BLOCK_M], DS)
    p_buffer = gl.allocate_shared_memory(gl.float32, [_ROWS * BLOCK_M], gl.SwizzledSharedLayout(1, 1, 1, order=[0]))
    kv_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    kv_free = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    do_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    mbarrier.init(kv_full.index(0), count=1)
    mbarrier.init(kv_free.index(0), count=_GROUPS)
    for j in gl.static_range(SLOTS):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(do_full.index(j), count=1)
    fence_async_shared()

    rings = (k_ring, v_ring, q_ring, do_ring, stats, p_buffer, ds_ring)
    full = (kv_full, kv_free, q_full, do_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, k_tiles, lower_right)
    # fmt: off
    gl.warp_specialize([
        (_hold_dv, (dv_desc, sum_ptr, rings, full, scale_log2, geometry, units, CAUSAL, MASKED)),
        (_hold_dk, (dk_desc, sum_ptr, rings, full, scale, geometry, units, CAUSAL, MASKED)),
        (_load_queries, (q_desc, do_desc, stats_desc, q_ring, do_ring, stats, (q_full, do_full), geometry, heads, units, _ROWS, _FREE_Q, CAUSAL)),  # noqa: E501
        (_load_keys, (k_desc, v_desc, k_ring, v_ring, kv_full, kv_free, geometry, units, 1, CAUSAL)),
    ], [4, 1, 1], [REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
