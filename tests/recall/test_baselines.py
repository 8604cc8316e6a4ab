"""Each baseline fails a function that is grossly wrong, and no right one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.cli.main import main
from harness.recall.baselines import BASELINES, assert_close, flash_attn, tutorial
from harness.recall.baselines.registry import Inputs
from harness.recall.faults import CONTROLS, FAULTS
from harness.subject.declaration import describe
from tests.harness import toys

# Taken before the fixture that leaves one control.
RIGHT_BACKWARD = CONTROLS["autograd"]


@pytest.fixture(autouse=True)
def _short_grids(monkeypatch):
    """Grids with one length or two."""
    monkeypatch.setattr(flash_attn, "LENGTHS", ((40, 70), (70, 40)))
    monkeypatch.setattr(tutorial, "LENGTHS", (128,))
    monkeypatch.setattr(assert_close, "LENGTHS", (64,))


def zeros(q, k, v, causal=False):
    """O is 0."""
    return torch.zeros_like(q)


def raises(q, k, v):
    """No call returns."""
    raise RuntimeError("no")


def squeezes(q, k, v):
    """O has lost a dimension."""
    return toys.plain(q, k, v)[0]


def refuses(q, k, v):
    """No call is supported."""
    raise NotImplementedError


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("wrong", [zeros, raises, squeezes])
def test_fires_on_a_gross_fault(name, wrong):
    assert BASELINES[name].fires(describe(wrong), "cpu")


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("right", [toys.right, toys.plain, refuses])
def test_is_silent_on_what_is_right(name, right):
    assert not BASELINES[name].fires(describe(right), "cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_is_silent_on_a_control(name):
    assert not BASELINES[name].fires(CONTROLS["naive-fp32"].subject(), "cpu")


@pytest.mark.parametrize("name", ["flash-attn grid", "plain Hypothesis"])
def test_groups_of_heads_are_asked_for(name):
    assert BASELINES[name].fires(FAULTS["gqa-interleaved"].subject(), "cpu")


def test_what_fails_now_and_then_fails_a_hypothesis_test():
    assert BASELINES["plain Hypothesis"].fires(FAULTS["autotune-inplace"].subject(), "cpu")


def test_round_shapes_have_no_groups():
    assert not BASELINES["assert_close"].fires(FAULTS["gqa-interleaved"].subject(), "cpu")


@pytest.mark.parametrize("causal", [False, True, "lower_right"])
def test_the_reference_is_right(causal):
    inputs = Inputs.randn(0, "cpu", torch.float32, B=2, H=(4, 2), N=(5, 3), d=8, causal=causal, scale=0.3)
    wanted = CONTROLS["naive-fp32"].subject().function(inputs.q, inputs.k, inputs.v, causal=causal, scale=0.3)
    torch.testing.assert_close(inputs.reference()["O"], wanted)


@pytest.mark.parametrize("causal", [False, True, "lower_right"])
def test_the_references_gradients_are_right(causal):
    inputs = Inputs.randn(0, "cpu", torch.float32, B=2, H=(4, 2), N=(5, 3), d=8, causal=causal, scale=0.3)
    got = inputs.reference(("O", "dQ"))
    leaves = [x.detach().double().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
    O = CONTROLS["naive-fp32"].subject().function(*leaves, causal=causal, scale=0.3)
    wanted = torch.autograd.grad(O, leaves, inputs.dO.double())
    for name, want in zip(("dQ", "dK", "dV"), wanted, strict=True):
        torch.testing.assert_close(got[name], want.float())


LOOK_AT_GRADIENTS = [name for name in BASELINES if name != "KernelBench"]


@pytest.mark.parametrize("name", BASELINES)
def test_gradients_are_looked_at_where_they_are_declared(name):
    wrong = replace(describe(toys.doubles_dk), differentiable=True)
    assert BASELINES[name].fires(wrong, "cpu") == (name in LOOK_AT_GRADIENTS)
    assert not BASELINES[name].fires(describe(toys.doubles_dk), "cpu")


@pytest.mark.parametrize("name", BASELINES)
def test_is_silent_on_gradients_that_are_right(name):
    assert not BASELINES[name].fires(RIGHT_BACKWARD.subject(), "cpu")


@pytest.mark.parametrize("name", LOOK_AT_GRADIENTS)
def test_a_backward_that_raises_fails(name):
    assert BASELINES[name].fires(
        replace(describe(lambda q, k, v: toys.plain(q, k, v).detach()), differentiable=True), "cpu"
    )


def test_each_says_what_it_does():
    assert all(len(baseline.rule) > 60 for baseline in BASELINES.values())


def test_recall_tells_what_they_found(tmp_path, capsys):
    table = tmp_path / "recall.md"
    chosen = ["--faults", "gqa-interleaved", "--time", "20", "--device", "cpu"]
    assert main(["recall", *chosen, "--baselines", "--markdown", str(table)]) == 0
    assert "flash-attn grid: 1 of 1 faults (1 of 1 plants), no false alarm" in capsys.readouterr().out
    header, _, ours, *_ = table.read_text().splitlines()
    assert header == "| checker | faults | plants | torch | false alarms |"
    assert ours == "| **flashattest** | 1 of 1 | 1 of 1 | 1 of 1 | 0 of 1 |"
    assert "| assert_close | 0 of 1 | 0 of 1 | 0 of 1 | 0 of 1 |" in table.read_text()
