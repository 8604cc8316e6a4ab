"""FlashAttention backward for Hopper in Gluon, in one kernel, for head dims up to 64: three warpgroups compute.

Two hold dK and dV of 64 keys each; the third makes dQ of what both hand it of dS. `fused.py` says the rest.
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

# Named barriers: for each slot of dS, that both parts are there; for each slot and part, that it has been read; for
# each slot of Q and dO, that it has been read.
_FULL_DS = gl.constexpr(6)
_FREE_DS = gl.constexpr(8)
_FREE_Q = gl.constexpr(12)


@gluon.jit
def _hold_keys(
    dk_desc,
    dv_desc,
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
    """A warpgroup: dK and dV of its part of each key tile, and dS of it for the one that makes dQ."""
    k_ring, v_ring, q_ring, do_ring, stats, ds_ring = rings
    kv_full, kv_free, q_full, do_full = full
    _seqlens, _stride, _Hq, group, _Nq, _Nk, _k_tiles, _lower_right = geometry
    dtype: gl.constexpr = q_ring.dtype
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    BLOCK_M: gl.constexpr = q_ring.shape[3]
    SLOTS: gl.constexpr = q_ring.shape[0]
    KV_SLOTS: gl.constexpr = k_ring.shape[0] // _PARTS
    S: gl.constexpr = _wgmma_layout(BLOCK_M)
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    A: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUM, k_width=2)
    OWN: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=S, k_width=2)
    QUERY: gl.constexpr = gl.SliceLayout(0, S)
    slot = 0
    phase = 0
    kv_slot = 0
    kv_phase = 0
    ds_slot = 0
    sent = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            n0 = tile * (_PARTS * _ROWS)
            last = n0 + _PARTS * _ROWS
            key0 = n0 + PART * _ROWS
            kv_len, shift, first, end = _queries(b, n0, geometry, BLOCK_M, CAUSAL)
            dk = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            dv = gl.zeros([_ROWS, BLOCK_D], gl.float32, layout=SUM)
            mbarrier.wait(kv_full.index(kv_slot), kv_phase)
            # TMA takes no offset of a slice, so parts have indices of their own.
            k = k_ring.index(kv_slot * _PARTS + PART).reshape([_ROWS, BLOCK_D])
            v = v_ring.index(kv_slot * _PARTS + PART).reshape([_ROWS, BLOCK_D])
            if MASKED:  # noqa: SIM102 (this is known when it is compiled, the other is not)
                if kv_len < last:
                    _blot(k, key0, kv_len, SUM)
                    _blot(v, key0, kv_len, SUM)
                    _sync()
            # In registers each product reads half as much of shared memory, which is what limits it.
            k = k.load(OWN)
            v = v.load(OWN)
            mbarrier.arrive(kv_free.index(kv_slot))
            i = first
            for _visit in range(0, group * (end - first)):
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
                ds_low = gl.convert_layout(ds, A)
                dk_token = warpgroup_mma(ds_low, q, dk, is_async=True)
                if sent >= 2:
                    _meet(_FREE_DS + 2 * ds_slot + PART, 2 * _GROUP)
                ds_ring.index(2 * ds_slot + PART).store(ds)
                fence_async_shared()
                _arrive(_FULL_DS + ds_slot, 3 * _GROUP)
                sent += 1
                ds_slot ^= 1
                # The products read P and dS in registers, which must stay theirs until here.
                dv, dk, p_low, ds_low = warpgroup_mma_wait(0, deps=(dv_token, dk_token, p_low, ds_low))
                _release(_FREE_Q + slot, _PARTS)
                slot, phase = _next(slot, phase, SLOTS)
                i += 1
                i = gl.where(i == end, first, i)
            tma.store_wait(0)
            _sync()
            _write_keys(dv_desc, out.index(2 * PART), dv, b, hk, key0, kv_len)
            _write_keys(dk_desc, out.index(2 * PART + 1), dk * scale, b, hk, key0, kv_len)
            kv_slot, kv_phase = _next(kv_slot, kv_phase, KV_SLOTS)
    tma.store_wait(0)


@gluon.jit
def _make_dq(
    sum_desc, k_ring, ds_ring, out, kv_full, kv_free, geometry, units, BLOCK_M: gl.constexpr, CAUSAL: gl.constexpr
):  # fmt: skip
    """A warpgroup: dQ of each visit, of both parts' dS and K."""
    _seqlens, _stride, Hq, group, Nq, _Nk, _k_tiles, _lower_right = geometry
    BLOCK_D: gl.constexpr = k_ring.shape[4]
    DQ_SLOTS: gl.constexpr = out.shape[0]
    KV_SLOTS: gl.constexpr = k_ring.shape[0] // _PARTS
    SUM: gl.constexpr = _wgmma_layout(BLOCK_D)
    kv_slot = 0
    kv_phase = 0
    ds_slot = 0
    dq_slot = 0
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            _kv_len, _shift, first, end = _queries(b, tile * (_PARTS * _ROWS), geometry, BLOCK_M, CAUSAL)
            mbarrier.wait(kv_full.index(kv_slot), kv_phase)
            k = k_ring.index(kv_slot * _PARTS).reshape([_ROWS, BLOCK_D])
            k2 = k_ring.index(kv_slot * _PARTS + 1).reshape([_ROWS, BLOCK_D])
            for member in range(0, group):
                for i in range(first, end):
                    _meet(_FULL_DS + ds_slot, 3 * _GROUP)
                    zero = gl.zeros([BLOCK_M, BLOCK_D], gl.float32, layout=SUM)
                    token = warpgroup_mma(
                        ds_ring.index(2 * ds_slot).permute((1, 0)), k, zero, use_acc=False, is_async=True
                    )
                    token = warpgroup_mma(ds_ring.index(2 * ds_slot + 1).permute((1, 0)), k2, token, is_async=True)
                    dq = warpgroup_mma_wait(0, deps=(token,))
                    _arrive(_FREE_DS + 2 * ds_slot, 2 * _GROUP)
                    _arrive(_FREE_DS + 2 * ds_slot + 1, 2 * _GROUP)
                    tile = (b * Hq + hk * group + member) * q_tiles + i
                    _add_by_copy(sum_desc, out.index(dq_slot), dq, DQ_SLOTS - 1, tile, 0)
                    dq_slot = gl.where(dq_slot == DQ_SLOTS - 1, 0, dq_slot + 1)
                    ds_slot ^= 1
            mbarrier.arrive(kv_free.index(kv_slot))
            kv_slot, kv_phase = _next(kv_slot, kv_phase, KV_SLOTS)
    tma.store_wait(0)


@gluon.jit(
    do_not_specialize=[
        *("seqlens_ptr", "stride_seqlens", "Hq", "group", "Nq", "Nk", "k_tiles", "lower_right", "heads", "units"),
        *("scale", "scale_log2"),
    ]
)
def _backward_narrow_hopper(
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
    KV_SLOTS: gl.constexpr,
    DQ_SLOTS: gl.constexpr,
    REGISTERS: gl.constexpr,
    REGISTERS_OF_DQ: gl.constexpr,
    CAUSAL: gl.constexpr,
    MASKED: gl.constexpr,
):
    """A program of the grid, as `_backward_kv_hopper` has them, and with its arguments but for these.

    sum_desc: of the sum of dQ / scale, in fp32 and blocks [64, BLOCK_D]. Constexprs: SLOTS tiles of Q and dO, KV_SLOTS
    key tiles and DQ_SLOTS tiles of dQ fit their rings; REGISTERS are a thread's that holds keys, REGISTERS_OF_DQ one's
    that makes dQ; MASKED says that some row sees some key tile in part.
    """
    dtype: gl.constexpr = q_desc.dtype
    BLOCK_D: gl.constexpr = k_desc.block_type.shape[3]
    BLOCK_M: gl.constexpr = q_desc.block_type.shape[2]
    k_ring = gl.allocate_shared_memory(dtype, [KV_SLOTS * _PARTS, 1, 1, _ROWS, BLOCK_D], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [KV_SLOTS * _PARTS, 1, 1, _ROWS, BLOCK_D], v_desc.layout)
    q_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], q_desc.layout)
    do_ring = gl.allocate_shared_memory(dtype, [SLOTS, 1, 1, BLOCK_M, BLOCK_D], do_desc.layout)
    stats = gl.allocate_shared_memory(gl.float32, [2 * SLOTS, 1, BLOCK_M], stats_desc.layout)
    DS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    ds_ring = gl.allocate_shared_memory(dtype, [2 * _PARTS, _ROWS, BLOCK_M], DS)
    sums = gl.allocate_shared_memory(gl.float32, [DQ_SLOTS, BLOCK_M, BLOCK_D], sum_desc.layout)
    out = gl.allocate_shared_memory(dtype, [2 * _PARTS, 1, 1, _ROWS, BLOCK_D], dk_desc.layout)
    kv_full = gl.allocate_shared_memory(gl.int64, [KV_SLOTS, 1], mbarrier.MBarrierLayout())
    kv_free = gl.allocate_shared_memory(gl.int64, [KV_SLOTS, 1], mbarrier.MBarrierLayout())
    q_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    do_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for j in gl.static_range(KV_SLOTS):
        mbarrier.init(kv_full.index(j), count=1)
        mbarrier.init(kv_free.index(j), count=3)
    for j in gl.static_range(SLOTS):
        mbarrier.init(q_full.index(j), count=1)
        mbarrier.init(do_full.index(j), count=1)
    fence_async_shared()

    rings = (k_ring, v_ring, q_ring, do_ring, stats, ds_ring)
    full = (kv_full, kv_free, q_full, do_full)
    geometry = (seqlens_ptr, stride_seqlens, Hq, group, Nq, Nk, k_tiles, lower_right)
    # fmt: off
    gl.warp_specialize([
        (_hold_keys, (dk_desc, dv_desc, rings, out, full, scale, scale_log2, geometry, units, 0, CAUSAL, MASKED)),
        (_hold_keys, (dk_desc, dv_desc, rings, out, full, scale, scale_log2, geometry, units, 1, CAUSAL, MASKED)),
        (_make_dq, (sum_desc, k_ring, ds_ring, sums, kv_full, kv_free, geometry, units, BLOCK_M, CAUSAL)),
        (_load_queries, (q_desc, do_desc, stats_desc, q_ring, do_ring, stats, (q_full, do_full), geometry, heads, units, _PARTS * _ROWS, _FREE_Q, CAUSAL)),  # noqa: E501
        (_load_keys, (k_desc, v_desc, k_ring, v_ring, kv_full, kv_free, geometry, units, _PARTS, CAUSAL)),
    ], [4, 4, 1, 1], [REGISTERS, REGISTERS_OF_DQ, _REGISTERS_TO_LOAD, _REGISTERS_TO_LOAD])
    # fmt: on
