"""The providers: each that runs on a CPU is right, is refused what it does not do, and is found by its name."""

import pytest
import torch

from speed.judge import judge_of
from speed.measure import PEERS_MAY
from speed.providers import PROVIDERS, named, ours, provider
from speed.rows import Row, make_inputs

ON_CPU = ("naive", "sdpa_math", "sdpa_flash", "ours", "ours_portable", "ours:config=32x32x4x1")
ROWS = [
    Row(N=40, d=16, Hq=2, Hk=2),
    Row(N=40, d=16, B=2, Hq=4, Hk=2, causal=True),
    Row(N=40, d=16, B=2, Hq=2, Hk=1, padding=0.4, causal=True, dtype="fp16"),
]


@pytest.fixture
def registry():
    kept = dict(PROVIDERS)
    yield PROVIDERS
    PROVIDERS.clear()
    PROVIDERS.update(kept)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", ON_CPU)
def test_a_provider_is_right(name, row, registry):
    inputs = make_inputs(row, "cpu")
    with named(name).around():
        assert judge_of(row, inputs).error(named(name).bind(row, inputs)()) <= (PEERS_MAY if name == "naive" else 1)


def test_the_peers_of_the_table_are_there():
    peers = {"naive", "sdpa_math", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "flex_compiled", "ours"}
    assert peers <= set(PROVIDERS)


def test_cudnn_is_absent_on_a_cpu_and_says_so():
    assert named("sdpa_cudnn").absent("cpu") == "it runs on cuda only"
    assert named("sdpa_cudnn").absent("cuda") is None


def test_a_missing_package_is_absent(registry):
    provider("nowhere", "nowhere", package="no_such_package.at_all")(lambda row, inputs: None)
    assert "no_such_package.at_all" in named("nowhere").absent("cpu")


def test_math_is_given_no_large_problem():
    assert not named("sdpa_math").too_large(Row(N=4096, d=64))
    assert named("sdpa_math").too_large(Row(N=8192, d=64))


def test_another_way_to_call_ours_is_one_line(registry, monkeypatch):
    calls = []
    monkeypatch.setattr("kernel.flash_attention", lambda q, k, v, **asked: calls.append(asked) or q)
    ours("ours_other", "ours, otherwise", config="other")
    row = ROWS[0]
    named("ours_other").bind(row, make_inputs(row, "cpu"))()
    assert calls == [{"causal": False, "seqlens_k": None, "config": "other"}]
    assert named("ours_other").ours


@pytest.mark.parametrize("name", ["nobody", "naive:config=1", "ours:config", "ours:=1"])
def test_a_name_of_none_is_refused(name):
    with pytest.raises(KeyError, match="provider must be one of"):
        named(name)


def test_the_context_of_a_provider_chooses_its_backend():
    with named("sdpa_math").around():
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
