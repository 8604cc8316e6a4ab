"""Early exit: the tiles that the kernel leaves out, as it counts them, against the closed form."""

import pytest
import torch

from kernel import flash_attention
from kernel.portable.forward import grid
from kernel.tiles.config import TileConfig
from kernel.tools.skipped_tiles import (
    flash_attn_backward_debug,
    flash_attn_forward_debug,
    skipped_query_tiles,
    skipped_tiles,
)

from .reference import assert_close, assert_gradients_close, draw, visible_keys

ALIGNMENTS = (None, "upper_left", "lower_right")


def visible_pairs(Nq, Nk, kv_len, alignment):
    return visible_keys(1, Nq, Nk, alignment or False, torch.tensor([kv_len]))[0, 0]


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


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("config", ["16x16x4x1", "16x32x4x1", "32x16x4x1"])
@pytest.mark.parametrize(("Nq", "Nk"), [(1, 33), (17, 48), (48, 17), (40, 40)])
def test_the_kernel_counts_the_closed_form(alignment, config, Nq, Nk, device):
    tile = TileConfig.parse(config)
    seqlens = [0, 1, 16, Nk]
    q, k, v = draw(len(seqlens), 2, 1, Nq, Nk, 4, device=device)
    lengths = torch.tensor(seqlens, device=device)
    _, skipped = flash_attn_forward_debug(q, k, v, alignment or False, lengths, config=config)
    assert skipped.dtype == torch.int32
    for b, kv_len in enumerate(seqlens):
        assert skipped[b].tolist() == [skipped_tiles(Nq, Nk, kv_len, alignment, tile)] * 2


def test_counting_does_not_change_the_output(device):
    q, k, v = draw(1, 2, 1, 40, 40, 8, device=device)
    o, skipped = flash_attn_forward_debug(q, k, v, causal=True, config="16x16x4x1")
    assert_close(o, torch.logsumexp(scores(q, k), -1), q, k, v, True)
    assert skipped[0].tolist() == [[2, 1, 0]] * 2


def scores(q, k):
    s = q @ k.transpose(-1, -2).expand(*q.shape[:2], -1, -1) * q.shape[-1] ** -0.5
    return s.masked_fill(~visible_keys(1, q.shape[2], k.shape[2], True).to(s.device), -torch.inf)


def test_nothing_is_skipped_without_a_mask(device):
    _, skipped = flash_attn_forward_debug(*draw(1, 1, 1, 20, 40, 8, device=device), config="16x16x4x1")
    assert (skipped == 0).all()


def test_debug_mode_wants_a_tile(device):
    with pytest.raises(ValueError, match="config must name a tile in debug mode"):
        flash_attn_forward_debug(*draw(1, 1, 1, 1, 1, 8, device=device), config="autotune")


# The backward


def backward(q, k, v, causal=False, seqlens=None, config="/16x16x4x1"):
    O, LSE = flash_attention(q, k, v, causal, seqlens, return_lse=True)
    dO = torch.linspace(-1, 1, O.numel(), device=O.device).reshape(O.shape)
    return dO, *flash_attn_backward_debug(dO, q, k, v, O, LSE, causal, seqlens, config=config)


@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("config", ["16x16x4x1+16x32x4x1", "16x32x4x1+32x16x4x1", "32x16x4x1+16x16x4x1"])
@pytest.mark.parametrize(("Nq", "Nk"), [(1, 33), (17, 48), (48, 17), (40, 40)])
def test_the_backward_counts_the_closed_form(alignment, config, Nq, Nk, device):
    kv, q_tile = map(TileConfig.parse, config.split("+"))
    seqlens = [0, 1, 16, Nk]
    q, k, v = draw(len(seqlens), 2, 1, Nq, Nk, 4, device=device)
    lengths = torch.tensor(seqlens, device=device)
    _, _, of_keys, of_queries = backward(q, k, v, alignment or False, lengths, f"/{config}")
    for b, kv_len in enumerate(seqlens):
        of_a_head = skipped_query_tiles(Nq, Nk, kv_len, alignment, kv)
        assert of_keys[b].tolist() == [[2 * tiles for tiles in of_a_head]]
        assert of_queries[b].tolist() == [skipped_tiles(Nq, Nk, kv_len, alignment, q_tile)] * 2


def test_counting_does_not_change_the_gradients(device):
    q, k, v = draw(1, 2, 1, 40, 40, 8, device=device)
    dO, grads, of_keys, of_queries = backward(q, k, v, True)
    assert_gradients_close(grads, q, k, v, dO, causal=True)
    assert (of_keys.tolist(), of_queries.tolist()) == ([[[0, 2, 4]]], [[[2, 1, 0]] * 2])


def test_the_backward_skips_nothing_without_a_mask(device):
    _, _, *skipped = backward(*draw(1, 1, 1, 20, 40, 8, device=device))
    assert all((counts == 0).all() for counts in skipped)


@pytest.mark.parametrize("config", ["autotune", "/autotune"])
def test_debug_mode_of_the_backward_wants_tiles(config, device):
    with pytest.raises(ValueError, match="config must name a tile in debug mode"):
        backward(*draw(1, 1, 1, 1, 1, 8, device=device), config=config)


def test_the_grid_has_one_dimension_past_65535():
    assert grid(70_000, 130, 64) == (210_000,)
    assert grid(3, 64, 64) == (3,)
