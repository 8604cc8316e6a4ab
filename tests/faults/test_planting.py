"""An edit that no longer applies is an error that says so."""

from __future__ import annotations

import pytest
import torch

from harness.recall.faults import registry
from harness.recall.faults.planting import AnchorLost, Edit, edited, pinned, plant, with_slack
from harness.recall.faults.witness import case

FILE = "portable/device/forward.py"


def test_an_edit_replaces_its_text():
    assert edited("id", "a = b", Edit(FILE, "b", "c")) == "a = c"


@pytest.mark.parametrize("source", ["a = d", "b = b"])
def test_a_lost_anchor_names_the_fault_and_the_text(source):
    with pytest.raises(AnchorLost, match=r"some-fault: .* must stand 1 times in portable/device/forward.py.*'b'"):
        edited("some-fault", source, Edit(FILE, "b", "c"))


def test_an_edit_may_say_how_often_its_text_stands():
    assert edited("id", "b = b", Edit(FILE, "b", "c", times=2)) == "c = c"


def test_an_edit_that_changes_nothing_is_an_error():
    with pytest.raises(AnchorLost, match="change there"):
        edited("id", "a = b", Edit(FILE, "b", "b"))


def test_an_edit_that_does_not_apply_plants_nothing():
    with pytest.raises(AnchorLost, match="some-fault"):
        plant("some-fault", [Edit(FILE, "text that the kernel does not have", "x")])


def test_two_copies_share_nothing():
    first, second = plant("copy", []), plant("copy", [])
    assert first.__module__ != second.__module__
    assert first.__globals__["flash_attn_forward"] is not second.__globals__["flash_attn_forward"]


def test_a_pinned_kernel_no_longer_takes_a_config():
    asked = []

    def attention(q, k, v, causal=False, scale=None, seqlens_k=None, return_lse=False, config=None):
        asked.append(config)

    attention.__flashattest__ = {"alignments": ("upper_left",), "configs": ("a", "b")}
    pinned_to_a = pinned(attention, "a")
    pinned_to_a(None, None, None)
    assert asked == ["a"]
    assert pinned_to_a.__flashattest__ == {"alignments": ("upper_left",)}


def test_slack_is_nan_and_leaves_the_tensors_as_they_are():
    q = torch.arange(12.0).reshape(1, 1, 4, 3)[:, :, ::2]

    def attention(q, k, v):
        after = q.as_strided((64,), (1,), q.storage_offset() + 12)
        return q, after

    seen, after = with_slack(attention)(q, q, q)
    assert torch.equal(seen, q)
    assert seen.stride() == q.stride()
    assert after.isnan().all()


@pytest.fixture
def _registers(monkeypatch):
    for name in ("FAULTS", "CONTROLS", "EQUIVALENTS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.mark.usefixtures("_registers")
def test_names_are_unique():
    with pytest.raises(ValueError, match="already named 'gqa-modulo'"):
        registry.edit("N", "gqa-modulo", None, "Again.", [], witness=case())


@pytest.mark.usefixtures("_registers")
def test_a_fault_must_say_what_it_is():
    with pytest.raises(ValueError, match="docstring"):
        registry.fault("A", "new", witness=case())(lambda q, k, v: q)


@pytest.mark.usefixtures("_registers")
def test_a_fault_expects_known_kinds():
    with pytest.raises(ValueError, match="must expect kinds of"):
        registry.edit("A", "new", None, "New.", [], witness=case(), expects=frozenset({"odd"}))


def test_dO_has_slack_too_and_gradients_come_as_they_are():
    q, dO = torch.arange(12.0).reshape(1, 1, 4, 3).requires_grad_(), torch.ones(()).expand(1, 1, 4, 3)
    seen = []

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            seen.append(gradient)
            return 2 * gradient

    (dQ,) = torch.autograd.grad(with_slack(lambda q, k, v: Twice.apply(q))(q, q, q), q, dO)
    assert torch.equal(dQ, 2 * dO)
    assert seen[0].stride() == dO.stride()
    assert seen[0].as_strided((64,), (1,), 1).isnan().all()
