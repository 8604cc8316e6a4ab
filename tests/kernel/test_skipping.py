"""Early exit: the tiles that the kernels visit in the interpreter, against a closed form and a count by brute force."""

import pytest
import torch
import triton

from kernel import flash_attention
from kernel.call.launch import INTERPRETED
from kernel.tiles.config import TileConfig

from .tensors import draw
from .visits import counted

ALIGNMENTS = (None, "upper_left", "lower_right")


def skipped_tiles(Nq: int, Nk: int, kv_len: int, alignment: str | None, tile: TileConfig) -> list[int]:
    """Closed form of one head: the key tiles that each query tile leaves out."""
    shift = kv_len - Nq if alignment == "lower_right" else 0
    counts = []
    for m0 in range(0, Nq, tile.BLOCK_M):
        visible = kv_len
        if alignment is not None:
            visible = max(0, min(kv_len, min(m0 + tile.BLOCK_M, Nq) + shift))
        counts.append(triton.cdiv(Nk, tile.BLOCK_N) - triton.cdiv(visible, tile.BLOCK_N))
    return counts


def skipped_query_tiles(Nq: int, Nk: int, kv_len: int, alignment: str | None, tile: TileConfig) -> list[int]:
    """Closed form of one query head: the query tiles that each key tile leaves out.

    Those before the first row that sees a key of the tile, or all of them where no row does.
    """
    first_limit = 1 + (kv_len - Nq if alignment == "lower_right" else 0)
    seen = kv_len if alignment is None else max(0, min(kv_len, Nq - 1 + first_limit))
    counts = []
    for n0 in range(0, Nk, tile.BLOCK_N):
        first_row = 0 if alignment is None else max(0, n0 + 1 - first_limit)
        counts.append(triton.cdiv(Nq, tile.BLOCK_M) if n0 >= seen else first_row // tile.BLOCK_M)
    return counts


def visible_pairs(Nq, Nk, kv_len, alignment):
    """Boolean (Nq, Nk), by the definition of the mask."""
    i, j = torch.arange(Nq)[:, None], torch.arange(Nk)
    limits = {None: Nk, "upper_left": i + 1, "lower_right": i + 1 + kv_len - Nq}
    return (j < kv_len) & (j < limits[alignment]).expand(Nq, Nk) if alignment else (j < kv_len).expand(Nq, Nk)


def tiles_of(keep, size, dim):
    return keep.split(size, dim) if keep.shape[dim] else ()


def before_the_first_seen(blocks):
    return next((i for i, block in enumerate(blocks) if block.any()), len(blocks))


def brute_force(Nq, Nk, kv_len, alignment, tile):
    """Count the trailing key tiles in which no row of the query tile sees a key."""
    rows_of_tiles = tiles_of(visible_pairs(Nq, Nk, kv_len, alignment), tile.BLOCK_M, 0)
    return [before_the_first_seen(tiles_of(rows, tile.BLOCK_N, 1)[::-1]) for rows in rows_of_tiles]


def brute_force_of_queries(Nq, Nk, kv_len, alignment, tile):
    """Count the leading query tiles in which no row sees a key of the key tile."""
    columns_of_tiles = tiles_of(visible_pairs(Nq, Nk, kv_len, alignment), tile.BLOCK_N, 1)
    return [before_the_first_seen(tiles_of(columns, tile.BLOCK_M, 0)) for columns in columns_of_tiles]


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("tile", [TileConfig(16, 16, 4, 1), TileConfig(16, 32, 4, 1), TileConfig(32, 16, 4, 1)])
@pytest.mark.parametrize(
    ("closed_form", "counted"), [(skipped_tiles, brute_force), (skipped_query_tiles, brute_force_of_queries)]
)
def test_closed_form_is_the_brute_force_count(closed_form, counted, alignment, tile):
    sizes = (0, 1, 2, 15, 16, 17, 31, 32, 33, 48, 65)
    for Nq in sizes:
        for Nk in sizes:
            for kv_len in {0, min(1, Nk), Nk // 2, max(0, Nk - 1), Nk}:
                want = counted(Nq, Nk, kv_len, alignment, tile)
                assert closed_form(Nq, Nk, kv_len, alignment, tile) == want


interpreted = pytest.mark.skipif(not INTERPRETED, reason="the interpreter counts what it runs")
SIZES = [(1, 33), (17, 48), (48, 17), (40, 40)]


def skipped(kernel, shape, alignment, lengths, config, visited, out_of):
    """Tiles that each program leaves out of `out_of`, in the order of the grid, in a pass over (B, Hq, Hk, Nq, Nk)."""
    q, k, v = draw(*shape, 4)
    leaves = [x.requires_grad_(name in kernel) for name, x in zip("QKV", (q, k, v), strict=True)]
    seqlens = torch.tensor(lengths)
    if kernel == "forward":
        with counted(kernel) as visits:
            flash_attention(q, k, v, alignment or False, seqlens, config=config)
    else:
        o = flash_attention(*leaves, alignment or False, seqlens, config=f"16x16x4x1/{config}")
        with counted(kernel) as visits:
            o.backward(torch.ones_like(o))
    return [out_of - visits[program] for program in range(visited)]


@interpreted
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("kernel", ["forward", "dQ"])
@pytest.mark.parametrize("config", ["16x16x4x1", "16x32x4x1", "32x16x4x1"])
@pytest.mark.parametrize(("Nq", "Nk"), SIZES)
def test_query_tiles_skip_the_closed_form(alignment, config, kernel, Nq, Nk):
    """Of two heads, where there is no diagonal one after the other, else the longest tiles of both first."""
    tile = TileConfig.parse(config)
    q_tiles, k_tiles = triton.cdiv(Nq, tile.BLOCK_M), triton.cdiv(Nk, tile.BLOCK_N)
    for kv_len in {0, 1, 16, Nk}:
        got = skipped(kernel, (1, 2, 1, Nq, Nk), alignment, [kv_len], config, 2 * q_tiles, k_tiles)
        of_head = skipped_tiles(Nq, Nk, kv_len, alignment, tile)
        assert got == [count for count in (of_head[::-1] if alignment else of_head) for _ in range(2)]


@interpreted
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("config", ["16x16x4x1", "16x32x4x1", "32x16x4x1"])
@pytest.mark.parametrize(("Nq", "Nk"), SIZES)
def test_key_tiles_skip_the_closed_form(alignment, config, Nq, Nk):
    """Of both query heads of a group together."""
    tile = TileConfig.parse(config)
    q_tiles, k_tiles = triton.cdiv(Nq, tile.BLOCK_M), triton.cdiv(Nk, tile.BLOCK_N)
    for kv_len in {0, 1, 16, Nk}:
        got = skipped("dK dV", (1, 2, 1, Nq, Nk), alignment, [kv_len], config, k_tiles, 2 * q_tiles)
        assert got == [2 * count for count in skipped_query_tiles(Nq, Nk, kv_len, alignment, tile)]


@interpreted
@pytest.mark.parametrize("kernel", ["forward", "dQ", "dK dV"])
def test_each_entry_of_a_batch_skips_by_its_own_length(kernel):
    got = skipped(kernel, (2, 1, 1, 32, 32), None, [32, 16], "16x16x4x1", 4, 2)
    assert got == {"forward": [0, 0, 1, 1], "dQ": [0, 0, 1, 1], "dK dV": [0, 0, 0, 2]}[kernel]


@interpreted
@pytest.mark.parametrize("kernel", ["forward", "dQ", "dK dV"])
def test_nothing_is_skipped_without_a_mask(kernel):
    assert skipped(kernel, (1, 1, 1, 32, 32), None, [32], "16x16x4x1", 2, 2) == [0, 0]
