"""Every relation of gradients fails on a fault that no check of a single call finds, and passes a right subject."""

import pytest
import torch

from harness.errors import Refused
from harness.judging.judge import judge
from harness.judging.relations import BITS, RELATIONS, check_relations, columns, graph
from harness.judging.relations.base import Base, FailedCall
from harness.recall.faults import CONTROLS
from harness.recall.faults.backward_blocks import Differentiable
from harness.recall.faults.functions.backward_addressing import DOAtStridesOfO
from harness.recall.faults.functions.backward_rules import DLSEIgnored
from harness.recall.faults.functions.backward_state import (
    DeltaOnlyWithDQ,
    DKReused,
    OtherTilesUnderGrad,
    SecondBackward,
    SharedLSE,
)
from harness.recall.faults.witness import gradients
from harness.running.attempt import attempt
from harness.subject.declaration import EXACT, describe
from tests.harness.judging.test_relations import FIRES as FORWARD
from tests.harness.judging.test_relations import one_bit_off


class Marked(Differentiable):
    """dV is one bit off where `mark` says so of what the forward pass kept and of dO."""

    factor = None

    def backward(self, saved, dO, dLSE):
        dQ, dK, dV = super().backward(saved, dO, dLSE)
        if not self.mark(saved, dO):
            return dQ, dK, dV
        if self.factor is not None:
            return dQ, dK * self.factor, dV * self.factor
        return dQ, dK, one_bit_off(dV)


def marked(mark, factor=None):
    return type("Toy", (Marked,), {"mark": staticmethod(mark), "factor": factor})


class DOClamped(Differentiable):
    def dO(self, dO, saved):
        return dO.clamp(-4, 4)


class DeltaLost(Differentiable):
    """δ is left out if there is a single key, so dQ and dK are not 0."""

    def delta(self, dO, saved):
        return super().delta(dO, saved) * (saved.k.shape[2] > 1)


class KeysClamped(Differentiable):
    """dQ takes no number of K past 4: what K's values have in common does not cancel then."""

    def keys(self, task, keys):
        return super().keys(task, keys).clamp(-4, 4)


class LastKeyLost(Differentiable):
    """dV of the last key is 0, which matters where that one has any weight."""

    def store_dv(self, dV, saved):
        dV = super().store_dv(dV, saved)
        dV[:, :, -1] = 0
        return dV


class WideLost(Differentiable):
    """Past 16 of the head dimension dK has no scale."""

    def scaled_dk(self, dK, task):
        return super().scaled_dk(dK, task) if dK.shape[3] <= 16 else dK


class WideNaN(Differentiable):
    """What is past 16 of the head dimension of dQ is NaN, a column of zeros too."""

    def scaled_dq(self, dQ, task):
        dQ = super().scaled_dq(dQ, task)
        dQ[..., 16:] = torch.nan
        return dQ


SOME = gradients(3, 5)
CAUSAL = gradients(4, 4, causal=True)
FALLING = gradients(3, 5, values=("positive", "falling", "normal"), scale=4.0)
FIRES = {
    "linear_in_dO": (DOClamped, SOME, "wrong_gradient"),
    "dO_adds_up": (marked(lambda s, dO: bool((dO == 0).all(-1).any()), 1.01), SOME, "wrong_gradient"),
    "causal_suffix": (marked(lambda s, dO: bool(dO[0, 0, 0, 0] > 0)), CAUSAL, "wrong_gradient"),
    "dO_of_empty_rows": (
        marked(lambda s, dO: bool(dO[0, 0, 0, 0] > 0)),
        gradients(5, 3, causal="lower_right"),
        "wrong_gradient",
    ),
    "any_dO_layout": (DOAtStridesOfO, gradients(3, 5, Hq=2, Hk=2), "wrong_gradient"),
    "dV_of_any_v": (marked(lambda s, dO: bool(s.v[0, 0, 0, 0] > 0)), SOME, "wrong_gradient"),
    "other_gradients_wanted": (DeltaOnlyWithDQ, SOME, "wrong_gradient"),
    "forward_without_gradient": (OtherTilesUnderGrad, gradients(2, 65), "wrong_values"),
    "copies_add_up": (marked(lambda s, dO: s.k.shape[1] == 2, 1.01), gradients(3, 5, Hq=2), "wrong_gradient"),
    "backward_twice": (SecondBackward, SOME, "not_repeatable"),
    "forward_between": (SharedLSE, SOME, "history_dependent"),
    "single_key_gradients": (DeltaLost, SOME, "wrong_gradient"),
    "merged_gradients": (DLSEIgnored, SOME, "wrong_gradient"),
}
MOVED = {
    "common_vector": (KeysClamped, gradients(3, 5, 64), "wrong_gradient"),
    "first_output_kept": (DKReused, SOME, "output_aliased"),
    "alone_as_in_batch": (marked(lambda s, dO: s.q.shape[0] == 1, 1.01), gradients(3, 5, B=2), "wrong_gradient"),
    "zero_columns": (WideLost, SOME, "wrong_gradient"),
    "keys_reversed": (
        LastKeyLost,
        gradients(3, 5, values=("positive", "falling", "normal"), scale=4.0),
        "wrong_gradient",
    ),
}
"""Relations of the forward pass that cover gradients too."""
RIGHT = [
    gradients(),
    gradients(1, 1),
    gradients(0, 3),
    gradients(3, 0),
    gradients(9, 4, causal=True, dLSE="contiguous"),
    gradients(4, 9, causal="lower_right", dO="expanded_all", needs=("q", "v")),
    gradients(9, 4, causal="lower_right", dLSE="bshd", B=2, seqlens_k=(2, 0)),
    gradients(3, 5, B=2, Hq=4, Hk=2, dtype="fp16", seqlens_k=(0, 3), scale=-0.5, dO="bshd", dLSE="sliced"),
    gradients(6, 6, B=2, Hq=2, Hk=2, dtype="bf16", causal=True, seqlens_k=(2, 6), scale=1.0, needs=("k",)),
    gradients(4, 6, dtype="fp16", values="large", scale=1.0, dO_values="large"),
    gradients(4, 6, dtype="fp16", values="denormal", dO_values="denormal", dLSE="contiguous"),
    gradients(4, 6, dtype="bf16", values="denormal", dO_values="large"),
    gradients(3, 70, 33, values=("positive", "negative", "normal"), scale=0.0),
    gradients(70, 5, 3, dtype="bf16", values=("normal", "constant", "small_integers"), needs=("v",), dLSE="contiguous"),
]
CONTROLLED = ["backward-16x16", "backward-casts", "autograd", "split-keys-differentiable"]


def promising(attention, exact=EXACT):
    subject = type(attention.__name__, (attention,), {"__flashattest__": {**attention.__flashattest__, "exact": exact}})
    return describe(subject(), "toy")


def verdicts_of(subject, tried, names):
    return [
        verdict for verdict in check_relations(attempt(subject, tried, "cpu"), also=names) if verdict.check in names
    ]


def test_every_relation_is_tried():
    assert set(FIRES) == RELATIONS.keys() - FORWARD.keys()


@pytest.mark.parametrize("name", {**FIRES, **MOVED})
def test_fires(name):
    make, tried, kind = {**FIRES, **MOVED}[name]
    assert [(v.kind, v.check) for v in verdicts_of(promising(make), tried, [name])] == [(kind, name)]


@pytest.mark.parametrize("name", {**FIRES, **MOVED})
def test_no_check_of_the_single_call_fires(name):
    make, tried, _ = {**FIRES, **MOVED}[name]
    assert not [v for v in judge(attempt(promising(make), tried, "cpu")) if v.check not in RELATIONS]


@pytest.mark.parametrize("tried", RIGHT, ids=repr)
@pytest.mark.parametrize("name", CONTROLLED)
def test_silent_on_right(name, tried):
    function = CONTROLS[name].make
    # Not promised: the mask, as NaN in a hidden key would meet a weight of 0; layouts, as torch sums each its own way.
    assert verdicts_of(promising(function, ("deterministic", "scale_invariant")), tried, RELATIONS) == []


@pytest.mark.parametrize("name", ["causal_suffix", "dO_of_empty_rows", "dV_of_any_v"])
def test_what_is_within_the_budget_takes_a_promise(name):
    make, tried, _ = FIRES[name]
    assert verdicts_of(promising(make, ()), tried, [name]) == []
    (verdict,) = verdicts_of(promising(make), tried, [name])
    assert verdict.parts == {BITS: 0.0}


def overflowing():
    """dO·v passes the range of fp16, and with it dS, which some kernels cast."""
    return gradients(2, 2, 40, dtype="fp16", values=("normal", "normal", "large"), dO_values="large")


def test_a_column_of_zeros_is_nan_where_dS_overflows():
    subject = promising(CONTROLS["backward-casts"].make, ("deterministic",))
    assert not Base.of(attempt(subject, overflowing(), "cpu")).gradients["dQ"].isfinite().all()
    assert verdicts_of(subject, overflowing(), ["zero_columns"]) == []


def test_a_column_that_overflows_by_itself_allows_nothing_beside_it():
    budget = torch.tensor([[1.0, torch.inf], [torch.inf, torch.inf], [1.0, 2.0]])
    assert columns._pad_budget(budget, 1)[:, 2].tolist() == [0.0, torch.inf, 0.0]


def test_a_column_of_zeros_is_0_elsewhere():
    (verdict,) = verdicts_of(promising(WideNaN), gradients(2, 2, 16), ["zero_columns"])
    assert verdict.kind == "wrong_gradient"


def test_a_second_backward_that_raises_is_a_failure_of_its_own():
    class Once(Differentiable):
        def keep(self, O, LSE):
            return {}

        def back(self, saved, dO, dLSE):
            if saved.kept.setdefault("done", False):
                raise RuntimeError("no second time")
            saved.kept["done"] = True
            return super().back(saved, dO, dLSE)

    (verdict,) = verdicts_of(promising(Once), SOME, ["backward_twice"])
    assert (verdict.kind, verdict.check) == ("raised", "backward_twice")
    assert "no second time" in verdict.sentence


def test_a_compiled_function_that_keeps_no_graph_is_let_off():
    class Donating(Differentiable):
        def keep(self, O, LSE):
            return {}

        def back(self, saved, dO, dLSE):
            if saved.kept.setdefault("done", False):
                raise RuntimeError("compiled with non-empty donated buffers which requires retain_graph=False")
            saved.kept["done"] = True
            return super().back(saved, dO, dLSE)

    assert verdicts_of(promising(Donating), SOME, ["backward_twice"]) == []


@pytest.mark.parametrize("name", ["copies_add_up", "dO_adds_up", "merged_gradients"])
def test_a_gradient_past_the_range_of_fp16_may_be_the_sum_of_parts_within_it(name):
    tried = gradients(
        3, 3, 40, Hq=2, dtype="fp16", values=("constant", "constant", "large"), dO_values="constant", seed=16571
    )
    assert attempt(promising(Differentiable), tried, "cpu").result.gradients["dK"].isinf().any()
    assert verdicts_of(promising(Differentiable, ()), tried, [name]) == []


@pytest.mark.parametrize(("large", "kind"), [(2**40, FailedCall), (1, Refused)])
def test_a_graph_that_finds_no_memory_is_refused_where_a_call_is(large, kind, monkeypatch):
    monkeypatch.setattr("harness.running.call.LARGE_BYTES", large)
    base = Base.of(attempt(describe(Differentiable()), gradients(2, 2), "cpu"))
    assert isinstance(graph._raised(base, MemoryError()), kind)
