"""Which keys a row sees, for every portable kernel: a mask is written here and nowhere else.

A row sees the keys below its limit: the length of its batch entry, and under a diagonal no more than those that the
diagonal leaves it. Tiles that nobody sees are not visited, and tiles that everybody sees whole have no mask.
"""

import triton
import triton.language as tl


@triton.jit
def _length(seqlens_ptr, b, stride_seqlens, Nk, HAS_SEQLENS: tl.constexpr):
    """Keys of batch entry b (64 bits), clamped to [0, Nk]."""
    kv_len = Nk
    if HAS_SEQLENS:
        kv_len = tl.load(seqlens_ptr + b * stride_seqlens)
        kv_len = tl.minimum(tl.maximum(kv_len, 0), Nk).to(tl.int32)
    return kv_len


@triton.jit
def _diagonal(kv_len, Nq, lower_right):
    """Keys that the diagonal leaves row 0, where each row has one more than the row before; negative is none."""
    return 1 + lower_right * (kv_len - Nq)


@triton.jit
def _sees(columns, limit):
    """Whether rows see keys; of the two, one has the rows along its dimension and the other the keys."""
    return columns < limit


@triton.jit
def _limits(first, last, own, stop, kv_len, CAUSAL: tl.constexpr):
    """What the rows of a tile see of the keys before `stop`.

    first, last, own: keys that the diagonal leaves the tile's first row, its last one, and each (BLOCK_M,). Returns
    `full`: every row sees the keys before it; `visible`: no row sees a key from there on; and the limit of each row,
    (BLOCK_M, 1) or one for all. `full` and `visible` may be negative.
    """
    full = stop
    visible = stop
    limit = kv_len
    if CAUSAL:
        full = tl.minimum(stop, first)
        visible = tl.minimum(stop, last)
        limit = tl.minimum(own, kv_len)[:, None]
    return full, visible, limit


@triton.jit
def _limits_of_tile(
    m0, offs_m, diagonal, kv_len, Nq, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr
):
    """`_limits` of all keys for a query tile that begins with row m0, `full` in whole tiles of BLOCK_N keys.

    diagonal: what `_diagonal` gives.
    """
    first = m0 + diagonal
    last = first + tl.minimum(BLOCK_M, Nq - m0) - 1
    full, visible, limit = _limits(first, last, first + offs_m, kv_len, kv_len, CAUSAL)
    if CAUSAL:
        full = tl.maximum(full, 0)
        visible = tl.maximum(visible, 0)
    return full // BLOCK_N * BLOCK_N, visible, limit


@triton.jit
def _queries_that_see(
    n0, diagonal, kv_len, Nq, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr
):  # fmt: skip
    """Which query tiles see the key tile that begins with key n0; `diagonal` is what `_diagonal` gives.

    Returns `seen`: no row sees a key from there on; `start`: query tiles from it on see a key of this tile; `full`:
    those from it on see all that are seen at all; `whole`: from it on a tile has rows past the last.
    """
    seen = kv_len
    start = 0
    full = 0
    whole = Nq // BLOCK_M
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    if CAUSAL:
        seen = tl.maximum(tl.minimum(kv_len, Nq - 1 + diagonal), 0)
        start = tl.maximum(n0 + 1 - diagonal, 0) // BLOCK_M
        full = (tl.maximum(tl.minimum(n0 + BLOCK_N, seen) - diagonal, 0) + BLOCK_M - 1) // BLOCK_M
    whole = tl.maximum(whole, full)
    if n0 >= seen:
        start = q_tiles
        full = q_tiles
        whole = q_tiles
    return seen, start, full, whole
