"""FlashAttention backward for Hopper in Gluon: dK and dV, warp specialised, operands by TMA, products by wgmma.

A program stays on its multiprocessor and works through key tiles of 128 rows, 64 for each of two warpgroups that
compute. One warp loads K and V of a key tile, another all tiles of Q and dO that see it, of every query head of the
group, with their LSE and delta. A warpgroup holds dK and dV in registers and computes

    S^T = K Q^T      P^T = exp2(scale S^T - LSE)     dV += P^T dO
    dP^T = V dO^T    dS^T = P^T (dP^T - delta)       dK += dS^T Q

with P^T and dS^T passing from one product's registers to the next's. While one warpgroup takes exponentials, the
other's products run. Each gradient is summed by one warpgroup, in the order of the queries, and written once.

A row that sees nothing has LSE = inf here, so that P = 0, but its dO is read: it must be finite.

For a causal problem a program takes key tiles in pairs, the i-th and then the i-th last: all pairs of a head take the
same time.
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
    _next,
    _release,
    _steps,
    _sync,
    _wgmma_layout,
)
from .mask import _hide, _queries

# Warpgroups that compute.
_GROUPS = gl.constexpr(2)


@gluon.jit
def _place_keys(step, geometry, CAUSAL: gl.constexpr):
    """The key tile of a step: whether it is due, batch entry, key head and number; those of a head are neighbours."""
    _seqlens, _stride, Hq, group, _Nq, _Nk, k_tiles, _lower_right = geometry
    halves: gl.constexpr = 2 if CAUSAL else 1
    unit = gl.program_id(0) + step // halves * gl.num_programs(0)
    places = (k_tiles + halves - 1) // halves
    head = unit // places
    tile = unit - head * places
    Hk = Hq // group
    b = head // Hk
    is_due = True
    if CAUSAL:
        # The middle one of an odd number has no partner.
        mirrored = k_tiles - 1 - tile
        is_due = (step % 2 == 0) | (mirrored != tile)
        tile = gl.where(step % 2 == 0, tile, mirrored)
    return is_due, b, head - b * Hk, tile


@gluon.jit
def _load_keys(k_desc, v_desc, k_ring, v_ring, kv_full, geometry, units, SLOTS: gl.constexpr, CAUSAL: gl.constexpr):
    """One warp: K and V of each step, a part for each warpgroup."""
    ROWS: gl.constexpr = k_ring.shape[3]
    KV_SLOTS: gl.constexpr = k_ring.shape[0] // _GROUPS
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            if loaded >= KV_SLOTS:
                _acquire(_FIRST_FREE + SLOTS + slot, _GROUPS)
            full = kv_full.index(slot)
            mbarrier.expect(full, 2 * _GROUPS * k_desc.block_type.nbytes)
            for part in gl.static_range(_GROUPS):
                rows = [b, hk, (tile * _GROUPS + part) * ROWS, 0]
                tma.async_copy_global_to_shared(k_desc, rows, full, k_ring.index(slot * _GROUPS + part))
                tma.async_copy_global_to_shared(v_desc, rows, full, v_ring.index(slot * _GROUPS + part))
            loaded += 1
            slot, phase = _next(slot, phase, KV_SLOTS)


@gluon.jit
def _load_queries(
    q_desc, do_desc, stats_desc, q_ring, do_ring, stats, full, geometry, heads, units, BLOCK_N: gl.constexpr,
    CAUSAL: gl.constexpr,
):  # fmt: skip
    """One warp: for each step the tiles of Q with their LSE, and of dO with their delta, head by head of the group."""
    q_full, do_full = full
    _seqlens, _stride, Hq, group, _Nq, _Nk, _k_tiles, _lower_right = geometry
    SLOTS: gl.constexpr = q_ring.shape[0]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            _kv_len, _shift, first, end = _queries(b, tile * BLOCK_N, geometry, BLOCK_M, CAUSAL)
            for member in range(0, group):
                hq = hk * group + member
                for i in range(first, end):
                    if loaded >= SLOTS:
                        _acquire(_FIRST_FREE + slot, _GROUPS)
                    row = i * BLOCK_M
                    head = b * Hq + hq
                    mbarrier.expect(q_full.index(slot), q_desc.block_type.nbytes + stats_desc.block_type.nbytes)
                    tma.async_copy_global_to_shared(q_desc, [b, hq, row, 0], q_full.index(slot), q_ring.index(slot))
                    tma.async_copy_global_to_shared(stats_desc, [head, row], q_full.index(slot), stats.index(2 * slot))
                    mbarrier.expect(do_full.index(slot), do_desc.block_type.nbytes + stats_desc.block_type.nbytes)
                    tma.async_copy_global_to_shared(do_desc, [b, hq, row, 0], do_full.index(slot), do_ring.index(slot))
                    tma.async_copy_global_to_shared(
                        stats_desc, [heads + head, row], do_full.index(slot), stats.index(2 * slot + 1)
                    )
                    loaded += 1
                    slot, phase = _next(slot, phase, SLOTS)


@gluon.jit
def _consume(
    dk_desc, dv_desc, rings, full, scale, scale_log2, geometry, units, PART: gl.constexpr, CAUSAL: gl.constexpr
):
    """A warpgroup: dK and dV of its part of each key tile."""
    k_ring, v_ring, q_ring, do_ring, stats = rings
    kv_full, q_full, do_full = full
    _seqlens, _stride, _Hq, group, _Nq, _Nk, _k_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    ROWS: gl.constexpr = k_ring.shape[3]
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    SLOTS: gl.constexpr = q_ring.shape[0]
    KV_SLOTS: gl.constexpr = k_ring.shape[0] // _GROUPS
    S: gl.constexpr = _wgmma_layout(BLOCK_M)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    QUERY: gl.constexpr = gl.SliceLayout(0, S)
    slot = 0
    phase = 0
    kv_slot = 0
    kv_phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            n0 = tile * (_GROUPS * ROWS)
            key0 = n0 + PART * ROWS
            kv_len, shift, first, end = _queries(b, n0, geometry, BLOCK_M, CAUSAL)
            dk = gl.zeros([ROWS, BLOCK_D], gl.float32, layout=SUM)
            dv = gl.zeros([ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(kv_full.index(kv_slot), kv_phase)
            k = k_ring.index(kv_slot * _GROUPS + PART).reshape([ROWS, BLOCK_D])
            v = v_ring.index(kv_slot * _GROUPS + PART).reshape([ROWS, BLOCK_D])
            i = first
            for _visit in range(0, group * (end - first)):
                q = q_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                do = do_ring.index(slot).reshape([BLOCK_M, BLOCK_D])
                zero = gl.zeros([ROWS, BLOCK_M], gl.float32, layout=S)
                mbarrier.wait(q_full.index(slot), phase)
                s_token = warpgroup_mma(k, q.permute((1, 0)), zero, use_acc=False, is_async=True)
                mbarrier.wait(do_full.index(slot), phase)
                dp_token = warpgroup_mma(v, do.permute((1, 0)), zero, use_acc=False, is_async=True)
                lse = stats.index(2 * slot).reshape([BLOCK_M]).load(QUERY)
                s = warpgroup_mma_wait(1, deps=(s_token,))
                p = gl.exp2(s * scale_log2 - lse[None, :])
                if CAUSAL:
                    p = _hide(p, key0, i * BLOCK_M + shift, n0 + _GROUPS * ROWS)
                p_low = gl.convert_layout(p.to(dtype), A)
                dv_token = warpgroup_mma(p_low, do, dv, is_async=True)
                delta = stats.index(2 * slot + 1).reshape([BLOCK_M]).load(QUERY)
                dp = warpgroup_mma_wait(1, deps=(dp_token,))
                ds_low = gl.convert_layout((p * (dp - delta[None, :])).to(dtype), A)
                dk_token = warpgroup_mma(ds_low, q, dk, is_async=True)
                # The products read P and dS in registers, which must stay theirs until here.
                dv, dk, p_low, ds_low = warpgroup_mma_wait(0, deps=(dv_token, dk_token, p_low, ds_low))
                _release(_FIRST_FREE + slot, _GROUPS)
                slot, phase = _next(slot, phase, SLOTS)
                i += 1
                i = gl.where(i == end, first, i)
            # Keys that nobody sees have whatever their K and V made of them.
            is_key = (key0 + gl.arange(0, ROWS, layout=gl.SliceLayout(1, SUM)) < kv_len)[:, None]
            # No other warpgroup uses this part of K and V, so the gradients leave through it.
            v.store(gl.where(is_key, dv, 0.0).to(dtype))
            k.store(gl.where(is_key, dk * scale, 0.0).to(dtype))
            fence_async_shared()
            _sync()
            tma.async_copy_shared_to_global(dv_desc, [b, hk, key0, 0], v_ring.index(kv_slot * _GROUPS + PART))
            tma.async_copy_shared_to_global(dk_desc, [b, hk, key0, 0], k_ring.index(kv_slot * _GROUPS + PART))
            tma.store_wait(0)
            _sync()
            _release(_FIRST_FREE + SLOTS + kv_slot, _GROUPS)
            kv_slot, kv_phase = _next(kv_slot, kv_phase, KV_SLOTS)


@gluon.jit(
    do_not_specialize=[
        *("seqlens_ptr", "stride_seqlens", "Hq", "group", "Nq", "Nk", "k_tiles", "lower_right", "heads", "units"),
        *("scale", "scale_log2"),
    ]
)
def _backward_kv_hopper(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    stats_desc,
    dk_desc,
    dv_desc,
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
    KV_SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """A program of the grid, which has as many as the device has multiprocessors, or fewer.

    Descriptors are of (B, H, N, d) tensors, in blocks [1, 1, BLOCK_M, BLOCK_D] of Q and dO and [1, 1, 64, BLOCK_D] of
    K, V, dK and dV, and of LSE and delta from `_delta`, in blocks [1, BLOCK_M]. `heads` is B * Hq; `units` are the key
    tiles of all KV heads, or their pairs where causal. `scale` is that of the scores, `scale_log2` the same times
    log2(e). Constexprs: SLOTS tiles of Q and dO, and KV_SLOTS key tiles, fit their rings; REGISTERS are a thread's that
    computes.
    """
    dtype: gl.constexpr = q_desc.dtype
    ROWS: gl.constexpr = k_desc.block_type.shape[2]
    BLOCK_D: gl.constexpr = k_desc.block_type.shape[3]
    BLOCK_M: gl.constexpr = q_desc.block_type.shape[2]
    k_ring = gl.allocate_shared_memory(dtype, [KV_SLOTS * _GROUPS, 1, 1, ROWS, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [KV_SLOTS * _GROUPS, 1, 1, ROWS, BLOCK_D], v_desc.layout)
    q_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], q_desc.layout)
    do_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], do_desc.layout)
    stats = gl.allocate_shared_memory(gl.float32, [2 * SLOTS, 1, BLOCK_M], stats_desc.layout)
    kv_full = gl.allocate_shared_memory(gl.int64, [KV_SLOTS, 1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    do_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for j in gl.static_range(KV_SLOTS):
        mbarrier.init(kv_full.index(j), count=1)
    for j in gl.static_range(SLOTS):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(do_full.index(j), count=1)
    fence_async_shared()

    rings = (k_ring, v_ring, q_ring, do_ring, stats)
    full = (kv_full, q_full, do_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, k_tiles, lower_right)
    # fmt: off
    gl.warp_specialize([
        (_consume, (dk_desc, dv_desc, rings, full, scale, scale_log2, geometry, units, 0, CAUSAL)),
        (_consume, (dk_desc, dv_desc, rings, full, scale, scale_log2, geometry, units, 1, CAUSAL)),
        (_load_queries, (q_desc, do_desc, stats_desc, q_ring, do_ring, stats, (q_full, do_full), geometry, heads, units, _GROUPS * ROWS, CAUSAL)),  # noqa: E501
        (_load_keys, (k_desc, v_desc, k_ring, v_ring, kv_full, geometry, units, SLOTS, CAUSAL)),
    ], [4, 1, 1], [REGISTERS, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
