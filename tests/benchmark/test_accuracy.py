"""The accuracy command: the input is the paper's, ours keeps its bound, and what is broken ends with 1."""

import json
from dataclasses import replace

import pytest
import torch

import accuracy
from speed.outliers import exact, ideal, outlier_inputs, outlier_row, rmse
from speed.passes import calls_of
from speed.providers import PROVIDERS, Provider, named
from speed.rows import PASSES, Inputs

OURS = ["--heads", "1", "--dtype", "fp16", "--device", "cpu", "--providers"]


def test_the_input_has_one_outlier_in_a_thousand():
    x = outlier_inputs(outlier_row("fp16", 4), "cpu", 0).q.double()
    assert x.var().item() == pytest.approx(1 + 100 * 0.001, rel=0.05)
    assert (x.abs() > 5).double().mean().item() == pytest.approx(0.001 * 0.62, rel=0.3)


def test_a_head_has_the_same_numbers_among_more():
    one, four = (outlier_inputs(outlier_row("bf16", heads), "cpu", 7) for heads in (1, 4))
    assert torch.equal(one.k[0, 0], four.k[0, 0])


def test_ours_keeps_its_bound(tmp_path, capsys):
    assert accuracy.main([*OURS, "ours:config=128x128x4x1", "--json", str(tmp_path / "a.json")]) == 0
    assert "kept" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "a.json").read_text())["accuracy"]
    assert 2e-5 < found["rmse"] <= found["bound"] < 5.5e-5
    assert 0.9 < found["of_ideal"] < 1.01


def _scores_in_fp16(row, inputs):
    return lambda: ((inputs.q @ inputs.k.mT) * row.scale).softmax(-1) @ inputs.v


def _nan(row, inputs):
    return lambda: inputs.q * torch.nan


def _raises(row, inputs):
    raise RuntimeError("no")


@pytest.mark.parametrize("bind", [_scores_in_fp16, _nan, _raises])
def test_what_is_broken_ends_with_1(bind, monkeypatch):
    monkeypatch.setitem(PROVIDERS, "ours", Provider("ours", "ours", bind, ours=True))
    assert accuracy.main([*OURS, "ours"]) == 1


def test_a_peer_past_the_bound_is_told_and_no_failure(capsys):
    assert accuracy.main([*OURS, "naive"]) == 0
    assert "naive" in capsys.readouterr().out


def test_an_unknown_provider_ends_with_2(capsys):
    assert accuracy.main([*OURS, "nobody"]) == 2
    assert "provider must be one of" in capsys.readouterr().err


def test_an_ideal_kernel_is_off_by_its_casts_alone():
    row = outlier_row("fp16", 1)
    inputs = outlier_inputs(row, "cpu", 0)
    assert 1e-5 < rmse(ideal(row, inputs)["O"], exact(row, inputs)["O"]) < 5.5e-5


def test_gradients_are_of_the_forwards_input():
    forward, backward = (outlier_inputs(outlier_row("bf16", 2, pass_), "cpu", 7) for pass_ in PASSES)
    assert all(torch.equal(getattr(forward, name), getattr(backward, name)) for name in "qkv")
    assert backward.dO.double().var().item() == pytest.approx(1, rel=0.05)


def test_exact_gradients_are_those_of_autograd():
    row = replace(outlier_row("fp16", 2, "backward"), N=64, d=8)
    rounded = outlier_inputs(row, "cpu", 0)
    inputs = Inputs(*(x.double() for x in (rounded.q, rounded.k, rounded.v)), None, rounded.dO.double())
    wanted = calls_of(named("naive"), row, inputs).whole()
    for got, want in zip(exact(row, rounded).values(), wanted, strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_the_gradients_of_each_provider_are_told(tmp_path, capsys):
    line = [*OURS, "sdpa_flash", "--direction", "backward", "--json", str(tmp_path / "a.json")]
    assert accuracy.main(line) == 0
    found = json.loads((tmp_path / "a.json").read_text())["accuracy"]
    assert [each["tensor"] for each in found] == ["dQ", "dK", "dV"]
    assert all(0.5 < each["of_ideal"] < 3 for each in found)
    assert capsys.readouterr().out.count("(ideal kernel)") == 3


def test_ours_without_gradients_ends_with_1(monkeypatch):
    monkeypatch.setitem(PROVIDERS, "ours", Provider("ours", "ours", lambda row, inputs: inputs.q.clone, ours=True))
    assert accuracy.main([*OURS, "ours", "--direction", "backward"]) == 1
