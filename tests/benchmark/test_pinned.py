"""Every tile that autotuning tries has a subject that is pinned to it, forward and backward."""

import pytest

import pinned
from harness.subject import load
from kernel import backward_tiles, tiles
from kernel.backward_paths import backward_half, parse_backward
from kernel.hopper_backward_fused import TILES
from kernel.paths import parse_config

PATHS = {"half": "portable", "fma": "portable", "hopper": "hopper", "fused": "hopper", "decode": "decode"}


@pytest.mark.parametrize(("name", "of"), pinned.ALL.items())
def test_a_config_names_its_path_and_is_a_subject(name, of):
    assert parse_config(of.config)[0].name == PATHS[name.rstrip("0123456789")]
    assert (parse_backward(backward_half(of.config))[0] is None) == (name == "decode")
    assert load(f"benchmark/pinned.py:{name}").differentiable


@pytest.mark.parametrize(
    ("kind", "spaces"),
    [
        ("half", (tiles.TENSOR_CORE_SPACE, backward_tiles.KV_SPACE, backward_tiles.Q_SPACE)),
        ("fma", (tiles.FMA_SPACE, backward_tiles.FMA_SPACE, backward_tiles.FMA_SPACE)),
    ],
)
def test_no_tile_is_left_out(kind, spaces):
    configs = [of.config.replace("+", "/").split("/") for name, of in pinned.ALL.items() if name.startswith(kind)]
    for space, of_pinned in zip(spaces, zip(*configs, strict=True), strict=True):
        assert set(map(str, space)) <= set(of_pinned)


def test_every_tile_of_the_fused_backward_has_a_subject_that_promises_no_bits_of_dQ():
    configs = {
        of.config: load(f"benchmark/pinned.py:{name}") for name, of in pinned.ALL.items() if "/fused:" in of.config
    }
    assert set(configs) == {f"hopper/fused:{tile}" for known in TILES.values() for tile in known}
    assert all("deterministic" not in subject.exact and subject.exact for subject in configs.values())


def test_what_is_not_pinned_is_no_subject():
    with pytest.raises(AttributeError, match="nowhere"):
        pinned.nowhere  # noqa: B018
