"""The tile of ours without a device: as an H100 would have it, or as it is pinned."""

import pytest

from io_analysis.tile import our_tile
from io_analysis.traffic import Tile
from speed.providers import named
from speed.rows import Row

LONG = Row(N=4096, d=128)


@pytest.mark.parametrize(
    ("row", "config", "tile"),
    [
        (LONG, "64x32x4x2", Tile(64, 32)),
        (LONG, "portable:64x32x4x2", Tile(64, 32)),
        (LONG, "hopper:128x128x2x1", Tile(128, 128, whole=True)),
        (LONG, "portable", Tile(128, 64)),
        (Row(N=64, d=128), None, Tile(128, 64)),
    ],
)
def test_a_config_names_its_tile(row, config, tile):
    assert our_tile(row, config, "cpu") == tile


def test_a_long_row_takes_whole_tiles_as_the_hopper_path_does():
    assert our_tile(LONG, None, "cpu").whole
    assert not our_tile(Row(N=4096, d=128, dtype="fp32"), None, "cpu").whole


def test_few_heads_take_the_tile_that_they_take_on_an_h100():
    assert our_tile(Row(N=4096, d=64, B=1, Hq=8, Hk=8), None, "cpu") == Tile(128, 128, whole=True)
    assert our_tile(Row(N=4096, d=64, B=4, Hq=32, Hk=32), None, "cpu") == Tile(192, 128, whole=True)


def test_the_config_of_a_provider_is_that_of_its_name():
    assert named("ours").config is None
    assert named("ours_portable").config == "portable"
    assert named("ours:config=64x32x4x2").config == "64x32x4x2"


def test_a_config_that_is_none_is_refused():
    with pytest.raises(ValueError, match="config must"):
        our_tile(LONG, "fastest", "cpu")
