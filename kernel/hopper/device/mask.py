"""Which keys a row sees, for every Hopper kernel: a mask is written here and nowhere else.

`geometry` is that of `common.py`.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# Past every query.
_NEVER = gl.constexpr(2**31 - 1)


@gluon.jit
def _length(b, geometry):
    """Keys of a batch entry."""
    seqlens_ptr, stride_seqlens, _Hq, _group, _Nq, Nk, _tiles, _lower_right = geometry
    kv_len = Nk
    if seqlens_ptr is not None:
        kv_len = gl.load(seqlens_ptr + b.to(gl.int64) * stride_seqlens)
        kv_len = gl.minimum(gl.maximum(kv_len, 0), Nk).to(gl.int32)
    return kv_len


@gluon.jit
def _shift(kv_len, Nq, lower_right):
    """The shift of the diagonal: row i sees the keys up to i + shift."""
    return lower_right * (kv_len - Nq)


@gluon.jit
def _keys(b, m0, geometry, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """What the rows of a query tile see.

    Returns the keys that any row of the batch entry sees, the shift of the diagonal, the key tiles that all rows of the
    query tile see whole, and those that any of them sees.
    """
    _seqlens, _stride, _Hq, _group, Nq, _Nk, _q_tiles, lower_right = geometry
    kv_len = _length(b, geometry)
    shift = 0
    full = kv_len
    visible = kv_len
    if CAUSAL:
        shift = _shift(kv_len, Nq, lower_right)
        full = gl.maximum(gl.minimum(kv_len, m0 + 1 + shift), 0)
        visible = gl.maximum(gl.minimum(kv_len, gl.minimum(m0 + BLOCK_M, Nq) + shift), 0)
        kv_len = gl.maximum(gl.minimum(kv_len, Nq + shift), 0)
    return kv_len, shift, full // BLOCK_N, (visible + BLOCK_N - 1) // BLOCK_N


@gluon.jit
def _first_key(n, kv_len, BLOCK_N: gl.constexpr):
    """Row of K where key tile n begins. The last tile ends with the last key, so none behind it is ever read.

    The rows of the tile before that it repeats, or the rows before 0, which TMA fills with 0, are masked.
    """
    return gl.minimum(n * BLOCK_N, kv_len - BLOCK_N)


@gluon.jit
def _is_seen(
    layout: gl.constexpr, n, row0, kv_len, shift, ROWS: gl.constexpr, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr
):
    """Which rows see which keys of tile n: not those past a row's limit, nor those that an earlier tile holds."""
    begin = n * BLOCK_N
    # As unsigned numbers, columns of the tile before are larger than any limit.
    skipped = _first_key(n, kv_len, BLOCK_N) - begin
    column = (gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, layout)) + skipped).to(gl.uint32, bitcast=True)
    limit = gl.full([ROWS], 0, gl.int32, layout=gl.SliceLayout(1, layout)) + kv_len
    if CAUSAL:
        own = gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout)) + (row0 + 1 + shift)
        limit = gl.minimum(limit, own)
    limit = gl.maximum(limit - begin, 0).to(gl.uint32, bitcast=True)
    return column[None, :] < limit[:, None]


@gluon.jit
def _queries(b, n0, geometry, BLOCK_M: gl.constexpr, CAUSAL: gl.constexpr):
    """Who sees a key tile that begins with key n0.

    Returns the keys of the batch entry that any row sees, the shift of the diagonal, the first query tile that sees a
    key of this one and the end of the query tiles.
    """
    _seqlens, _stride, _Hq, _group, Nq, _Nk, _k_tiles, lower_right = geometry
    kv_len = _length(b, geometry)
    shift = 0
    first = 0
    if CAUSAL:
        shift = _shift(kv_len, Nq, lower_right)
        kv_len = gl.maximum(gl.minimum(kv_len, Nq + shift), 0)
        first = gl.maximum(n0 - shift, 0) // BLOCK_M
    end = (Nq + BLOCK_M - 1) // BLOCK_M
    first = gl.where(n0 < kv_len, gl.minimum(first, end), end)
    return kv_len, shift, first, end


@gluon.jit
def _hide(p, key0, query0, last):
    """P^T of keys from key0 and queries whose last key is query0 and so on; 0 where a query does not see a key.

    last: the end of the program's key tile; where query0 has come so far, all is seen.
    """
    layout: gl.constexpr = p.type.layout
    if query0 < last:
        key = key0 + gl.arange(0, p.shape[0], layout=gl.SliceLayout(1, layout))
        query = query0 + gl.arange(0, p.shape[1], layout=gl.SliceLayout(0, layout))
        p = gl.where(key[:, None] <= query[None, :], p, 0.0)
    return p


@gluon.jit
def _hide_unseen(p, key0, query0, last, kv_len, CAUSAL: gl.constexpr, MASKED: gl.constexpr):
    """P^T of keys from key0 and queries whose last key is query0 and so on; 0 where a query does not see a key.

    last: the end of the program's key tile; where kv_len and the queries have come so far, all is seen.
    """
    layout: gl.constexpr = p.type.layout
    if MASKED:
        is_part = kv_len < last
        if CAUSAL:
            is_part = is_part | (query0 < last)
        if is_part:
            key = key0 + gl.arange(0, p.shape[0], layout=gl.SliceLayout(1, layout))
            if CAUSAL:
                # A key past the end is seen from a query on that does not come. The queries depend on query0: what
                # stays the same from visit to visit the compiler would keep in registers, and none are left.
                query = query0 + gl.arange(0, p.shape[1], layout=gl.SliceLayout(0, layout))
                p = gl.where(gl.where(key < kv_len, key, _NEVER)[:, None] <= query[None, :], p, 0.0)
            else:
                p = gl.where((key < kv_len)[:, None], p, 0.0)
    return p
