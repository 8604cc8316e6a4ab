"""The space of tiles: what is in it, what fits where, what ships."""

import pytest
import torch

from kernel import flash_attention
from kernel.call.arguments import DTYPES
from kernel.tiles.config import SHARED_MEMORY, TileConfig, Where, block_d, shared_memory_limit
from kernel.tiles.defaults import TABLE, default_tile, row_of
from kernel.tiles.space import FORWARD, check_pinned

HEAD_TILES = (16, 32, 64, 128, 256)


def test_the_space_has_the_points_of_the_4070_and_the_a100():
    assert TileConfig.parse("64x64x4x3") in FORWARD.fitting(Where(64, torch.float16, 89))
    assert TileConfig.parse("128x128x8x4") in FORWARD.fitting(Where(64, torch.float16, 80))


def test_text_and_tile_are_the_same():
    assert all(TileConfig.parse(str(tile)) == tile for tile in FORWARD.tensor_cores + FORWARD.fma)


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("BLOCK_D", HEAD_TILES)
@pytest.mark.parametrize("causal", [False, True])
def test_defaults_are_in_the_space_that_fits(BLOCK_D, dtype, arch, causal):
    assert default_tile(Where(BLOCK_D, dtype, arch), causal) in FORWARD.fitting(Where(BLOCK_D, dtype, arch))


def test_no_two_rows_of_the_defaults_hold_for_one_problem():
    keys = [
        (row.arch, row.dtype, row.d, causal) for row in TABLE for causal in (False, True) if row.causal != (not causal)
    ]
    assert len(keys) == len(set(keys))


def test_every_row_of_the_defaults_is_used():
    problems = [Where(d, dtype, arch) for d in HEAD_TILES for dtype in DTYPES.values() for arch in SHARED_MEMORY]
    assert {row_of(TABLE, where, causal) for where in problems for causal in (False, True)} == set(TABLE)


@pytest.mark.parametrize(("arch", "like"), [(75, 80), (86, 80), (100, 90), (120, 89)])
def test_an_architecture_without_rows_takes_those_of_a_relative(arch, like):
    assert row_of(TABLE, Where(64, torch.float16, arch), True) == row_of(TABLE, Where(64, torch.float16, like), True)


def test_pruning_drops_what_does_not_fit():
    large = TileConfig.parse("128x128x8x4")
    assert large not in FORWARD.fitting(Where(64, torch.float16, 89))
    assert large not in FORWARD.fitting(Where(256, torch.float16, 90))
    assert TileConfig.parse("128x64x4x3") not in FORWARD.fitting(Where(128, torch.float16, 90))
    assert large not in FORWARD.fitting(Where(64, torch.float32, 90))


def test_a_pinned_tile_that_cannot_run_is_refused():
    check_pinned(TileConfig(128, 64, 8, 3), Where(128, torch.float16, 90))
    with pytest.raises(NotImplementedError, match="config 128x64x8x3 needs 263168 bytes of shared memory of 232448"):
        check_pinned(TileConfig(128, 64, 8, 3), Where(256, torch.float16, 90))
    with pytest.raises(NotImplementedError, match="config 64x64x4x3 has too many products"):
        check_pinned(TileConfig(64, 64, 4, 3), Where(128, torch.float32, 90))


def test_the_smallest_declared_tile_runs_everywhere():
    smallest = TileConfig.parse(flash_attention.__flashattest__["configs"][0])
    for arch in SHARED_MEMORY:
        for BLOCK_D in HEAD_TILES:
            check_pinned(smallest, Where(BLOCK_D, torch.float16, arch))


@pytest.mark.parametrize(("d", "width"), [(1, 16), (16, 16), (17, 32), (64, 64), (65, 128), (129, 256), (256, 256)])
def test_head_dim_tile(d, width):
    assert block_d(d) == width


def test_an_unknown_architecture_counts_as_an_older_one():
    assert shared_memory_limit(101) == SHARED_MEMORY[100]
    assert shared_memory_limit(70) == min(SHARED_MEMORY.values())
