"""Every tile that autotuning tries has a subject that is pinned to it, forward and backward."""

import pytest
import torch

import pinned
from harness.subject.loading import load
from kernel.choose import BACKWARD, FORWARD, halves
from kernel.hopper.backward_fused import TILES
from kernel.tiles import space

PATHS = {"half": "portable", "fma": "portable", "hopper": "hopper", "fused": "hopper", "decode": "decode"}


@pytest.mark.parametrize(("name", "of"), pinned.ALL.items())
def test_a_config_names_its_path_and_is_a_subject(name, of):
    forward, backward = halves(of.config)
    assert FORWARD.parse(forward)[0].name == PATHS[name.rstrip("0123456789")]
    assert (BACKWARD.parse(backward)[0] is None) == (name == "decode")
    assert load(f"benchmark/pinned.py:{name}").differentiable


@pytest.mark.parametrize(("kind", "dtype"), [("half", torch.float16), ("fma", torch.float32)])
def test_no_tile_is_left_out(kind, dtype):
    spaces = [each.of(dtype) for each in (space.FORWARD, space.BACKWARD_KV, space.BACKWARD_Q)]
    configs = [of.config.replace("+", "/").split("/") for name, of in pinned.ALL.items() if name.startswith(kind)]
    for tiles, of_pinned in zip(spaces, zip(*configs, strict=True), strict=True):
        assert set(map(str, tiles)) <= set(of_pinned)


def test_every_tile_of_the_fused_backward_has_a_subject_that_promises_no_bits_of_dQ():
    subjects = {of.config: load(f"benchmark/pinned.py:{name}") for name, of in pinned.ALL.items()}
    fused = {config for config in subjects if "/fused:" in config}
    assert fused == {f"hopper/fused:{tile}" for known in TILES.values() for tile in known}
    assert {config for config, subject in subjects.items() if "deterministic" not in subject.exact} == fused
    assert all(subjects[config].exact for config in fused)


def test_what_is_not_pinned_is_no_subject():
    with pytest.raises(AttributeError, match="nowhere"):
        pinned.nowhere  # noqa: B018
