"""What the Hopper kernels share on the device: barriers, rings, the order of query tiles, and who loads K and V.

`geometry` is (seqlens_ptr or None, stride_seqlens, Hq, group, Nq, Nk, tiles, lower_right): `tiles` are those of a head
that programs share among them, of queries or of keys.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .mask import _first_key, _keys

# A barrier of a warpgroup, renamed in Triton 3.7.
_sync = getattr(gl, "barrier", None) or gl.thread_barrier

# Threads of a warpgroup, and of a warp that loads.
_GROUP = gl.constexpr(128)
_WARP = gl.constexpr(32)
# The named barriers, of a block's 16, by which the warpgroups hand slots of the rings back: K's, then V's, then Q's.
# Triton itself takes one for each partition and two more.
_FIRST_FREE = gl.constexpr(6)
_REGISTERS_TO_LOAD = gl.constexpr(24)


@gluon.constexpr_function
def _wgmma_layout(columns):
    """Where a warpgroup of 4 warps holds what it computes: S, of BLOCK_N columns, or O, of BLOCK_D."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.constexpr_function
def _bar(operation, threads):
    """PTX on the named barrier in operand 1; inline assembly must have a result."""
    return f"bar.{operation} $1, {threads}; mov.u32 $0, 0;"


@gluon.jit
def _release(barrier, GROUPS: gl.constexpr):
    """Say, without waiting, that this warpgroup has read a slot.

    Triton's own `mbarrier.arrive` would stop the warpgroup twice: before one thread arrives, and after.
    """
    asm: gl.constexpr = _bar("arrive", GROUPS * _GROUP + _WARP)
    gl.inline_asm_elementwise(asm, "=r,r", [barrier], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _acquire(barrier, GROUPS: gl.constexpr):
    """Wait, in the warp that loads, until all warpgroups have read a slot."""
    asm: gl.constexpr = _bar("sync", GROUPS * _GROUP + _WARP)
    gl.inline_asm_elementwise(asm, "=r,r", [barrier], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _next(slot, phase, SLOTS: gl.constexpr):
    """The slot of a ring after this one, and the phase of its barrier, which flips on each round."""
    slot += 1
    is_round = slot == SLOTS
    return gl.where(is_round, 0, slot), gl.where(is_round, phase ^ 1, phase)


@gluon.jit
def _steps(units, CAUSAL: gl.constexpr):
    """Query tiles that this program works through: its share of the units, two tiles each where causal."""
    programs = gl.num_programs(0)
    mine = (units - gl.program_id(0) + programs - 1) // programs
    return mine * 2 if CAUSAL else mine


@gluon.jit
def _place(step, geometry, BLOCK_M: gl.constexpr, CAUSAL: gl.constexpr):
    """The query tile of a step: whether it is due, batch entry, query head, key head and first row.

    The heads of a group are neighbours, and then the query tiles of a head, so that K and V come from the L2 cache.
    """
    _seqlens, _stride, Hq, group, _Nq, _Nk, q_tiles, _lower_right = geometry
    halves: gl.constexpr = 2 if CAUSAL else 1
    unit = gl.program_id(0) + step // halves * gl.num_programs(0)
    places = (q_tiles + halves - 1) // halves
    kv_head = unit // (group * places)
    rank = unit - kv_head * group * places
    q_tile = rank // group
    Hk = Hq // group
    b = kv_head // Hk
    hk = kv_head - b * Hk
    hq = hk * group + rank - q_tile * group
    is_due = True
    if CAUSAL:
        # The middle one of an odd number has no partner.
        mirrored = q_tiles - 1 - q_tile
        is_due = (step % 2 == 0) | (mirrored != q_tile)
        q_tile = gl.where(step % 2 == 0, mirrored, q_tile)
    return is_due, b, hq, hk, q_tile * BLOCK_M


@gluon.jit
def _load_kv(
    k_desc,
    v_desc,
    k_ring,
    v_ring,
    k_full,
    v_full,
    geometry,
    units,
    BLOCK_M: gl.constexpr,
    GROUPS: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """One warp: the K and V tiles of each step, the last one first."""
    SLOTS: gl.constexpr = k_ring.shape[0]
    BLOCK_N: gl.constexpr = k_ring.shape[3]
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, _hq, hk, m0 = _place(step, geometry, BLOCK_M, CAUSAL)
        if is_due:
            kv_len, _shift, _whole, tiles = _keys(b, m0, geometry, BLOCK_M, BLOCK_N, CAUSAL)
            for i in range(0, tiles):
                rows = [b, hk, _first_key(tiles - 1 - i, kv_len, BLOCK_N), 0]
                if loaded >= SLOTS:
                    _acquire(_FIRST_FREE + slot, GROUPS)
                mbarrier.expect(k_full.index(slot), k_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(k_desc, rows, k_full.index(slot), k_ring.index(slot))
                if loaded >= SLOTS:
                    _acquire(_FIRST_FREE + SLOTS + slot, GROUPS)
                mbarrier.expect(v_full.index(slot), v_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(v_desc, rows, v_full.index(slot), v_ring.index(slot))
                loaded += 1
                slot, phase = _next(slot, phase, SLOTS)
