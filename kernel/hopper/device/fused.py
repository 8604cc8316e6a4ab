"""What the fused backward kernels for Hopper share: barriers, loaders, masks, and the way of each gradient to memory.

A fused kernel makes dQ, dK and dV of one pass over S and dP: five products where two kernels take seven. A program
holds a key tile of 128 rows, 64 for each of two warpgroups, and visits the query tiles that see it, of every query head
of the group:

    S^T = K Q^T      P^T = exp2(scale S^T - LSE)     dV += P^T dO
    dP^T = V dO^T    dS^T = P^T (dP^T - delta)       dK += dS^T Q       dQ += dS K

dK and dV stay in registers. dS^T passes through shared memory, and each visit's dQ is added to an fp32 tensor in global
memory in the order in which programs come, so dQ may differ in its last bits from run to run. Its rows are those of all
heads one after the other, filled up to multiples of 64 for each.

Keys that no row sees may hold anything. dQ sums over keys, so their rows of K and V become 0 in shared memory first.
A row that sees nothing has LSE = inf here, so that P = 0, but its dO is read: it must be finite.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import _core
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from .backward_kv import _place_keys
from .common import _GROUP, _WARP, _bar, _next, _steps, _sync
from .mask import _queries

# Renamed in Triton 3.8; 3.9 refuses the old names.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

if hasattr(tma, "async_atomic_add"):
    _add = tma.async_atomic_add
else:
    # Public from Triton 3.8 on; the operation is there before.
    @_core.builtin
    def _add(tensor_desc, coord, src, _semantic=None):
        """Add a tile of shared memory to a tensor: `cp.reduce.async.bulk.tensor`."""
        coord = _semantic._convert_to_ir_values(coord, require_i64=False)
        kind = _core.ir.DESCRIPTOR_REDUCE_KIND.ADD
        _semantic.builder.create_async_tma_reduce(kind, tensor_desc.handle, coord, src.handle)


# Warpgroups that hold keys, and the rows of each.
_PARTS = gl.constexpr(2)
_ROWS = gl.constexpr(64)
# Elements of a tile of dQ's sum.
_TILE = gl.constexpr(64 * 64)


@gluon.jit
def _arrive(barrier, THREADS: gl.constexpr):
    """Arrive at a named barrier of THREADS threads, without waiting."""
    asm: gl.constexpr = _bar("arrive", THREADS)
    gl.inline_asm_elementwise(asm, "=r,r", [barrier], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _meet(barrier, THREADS: gl.constexpr):
    """Arrive at a named barrier of THREADS threads and wait for the others."""
    asm: gl.constexpr = _bar("sync", THREADS)
    gl.inline_asm_elementwise(asm, "=r,r", [barrier], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _load_keys(
    k_desc, v_desc, k_ring, v_ring, kv_full, kv_free, geometry, units, PARTS: gl.constexpr, CAUSAL: gl.constexpr
):  # fmt: skip
    """One warp: K and V of each step, in PARTS of 64 rows."""
    SLOTS: gl.constexpr = k_ring.shape[0] // PARTS
    loaded = 0
    slot = 0
    phase = 0
    for step in range(0, _steps(units, CAUSAL)):
        is_due, b, hk, tile = _place_keys(step, geometry, CAUSAL)
        if is_due:
            # In the first round nothing has been loaded that might still be read.
            mbarrier.wait(kv_free.index(slot), phase ^ 1, pred=loaded >= SLOTS)
            full = kv_full.index(slot)
            mbarrier.expect(full, 2 * PARTS * k_desc.block_type.nbytes)
            for part in gl.static_range(PARTS):
                rows = [b, hk, (tile * PARTS + part) * _ROWS, 0]
                _load(k_desc, rows, full, k_ring.index(slot * PARTS + part))
                _load(v_desc, rows, full, v_ring.index(slot * PARTS + part))
            loaded += 1
            slot, phase = _next(slot, phase, SLOTS)


@gluon.jit
def _load_queries(
    q_desc, do_desc, stats_desc, q_ring, do_ring, stats, full, geometry, heads, units, KEYS: gl.constexpr,
    FREE: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """One warp: for each step the tiles of Q with their LSE, and of dO with their delta, head by head of the group.

    KEYS are those of a program's tile. Named barrier FREE + slot says that a slot has been read.
    """
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
            _kv_len, _shift, first, end = _queries(b, tile * KEYS, geometry, BLOCK_M, CAUSAL)
            for member in range(0, group):
                hq = hk * group + member
                for i in range(first, end):
                    if loaded >= SLOTS:
                        _meet(FREE + slot, _PARTS * _GROUP + _WARP)
                    row = i * BLOCK_M
                    head = b * Hq + hq
                    mbarrier.expect(q_full.index(slot), q_desc.block_type.nbytes + stats_desc.block_type.nbytes)
                    _load(q_desc, [b, hq, row, 0], q_full.index(slot), q_ring.index(slot))
                    _load(stats_desc, [head, row], q_full.index(slot), stats.index(2 * slot))
                    mbarrier.expect(do_full.index(slot), do_desc.block_type.nbytes + stats_desc.block_type.nbytes)
                    _load(do_desc, [b, hq, row, 0], do_full.index(slot), do_ring.index(slot))
                    _load(stats_desc, [heads + head, row], do_full.index(slot), stats.index(2 * slot + 1))
                    loaded += 1
                    slot, phase = _next(slot, phase, SLOTS)


@gluon.jit
def _blot(x, key0, kv_len, layout: gl.constexpr):
    """Make 0 of the rows of K or V in shared memory that no query sees; a barrier must follow before they are read."""
    is_key = (key0 + gl.arange(0, x.shape[0], layout=gl.SliceLayout(1, layout)) < kv_len)[:, None]
    x.store(gl.where(is_key, x.load(layout), 0.0).to(x.dtype))
    fence_async_shared()


@gluon.jit
def _write_keys(desc, buffer, x, b, hk, key0, kv_len):
    """Store the rows of dK or dV of a warpgroup through its buffer; 0 for keys that no query sees."""
    layout: gl.constexpr = x.type.layout
    is_key = (key0 + gl.arange(0, x.shape[0], layout=gl.SliceLayout(1, layout)) < kv_len)[:, None]
    buffer.reshape([x.shape[0], x.shape[1]]).store(gl.where(is_key, x, 0.0).to(buffer.dtype))
    fence_async_shared()
    _sync()
    _store(desc, [b, hk, key0, 0], buffer)


@gluon.jit
def _add_by_atomics(sum_ptr, tile, dq):
    """Add 64 rows of dQ, of a multiple of 64 columns, to the sum, from its tile number `tile` on, out of registers.

    Tiles of 64 x 64 lie in the order of wgmma's registers, so that each thread adds 4 neighbours at a time:
    [columns // 8, warp, rows % 8, columns // 2 % 4, rows // 8 % 2, columns % 2].
    """
    COLUMNS: gl.constexpr = dq.shape[1]
    x = dq.reshape([4, 2, 8, COLUMNS // 8, 4, 2]).permute([3, 0, 2, 4, 1, 5]).reshape([64 * COLUMNS])
    at = sum_ptr + tile.to(gl.int64) * _TILE + gl.arange(0, 64 * COLUMNS, layout=x.type.layout)
    gl.atomic_add(at, x, sem="relaxed")


@gluon.jit
def _add_by_copy(desc, buffer, dq, PENDING: gl.constexpr, tile, column):
    """Add 64 rows of dQ to the sum, from row 64 * tile of all heads on, through a buffer.

    No more than PENDING adds before may have yet to read theirs.
    """
    tma.store_wait(PENDING)
    _sync()
    buffer.store(dq)
    fence_async_shared()
    _sync()
    _add(desc, [tile * dq.shape[0], column], buffer)
