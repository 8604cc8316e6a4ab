"""The base of relations: a further call with or without a backward, and the claims about its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch

from harness.judging.relations import RELATIONS
from harness.judging.relations.base import Base, LaidOut
from harness.running.attempt import attempt
from harness.subject.declaration import EXACT, describe
from strategies import AttentionCase, Features, Geometry, TensorSpec
from tests.harness import toys
from tests.harness.judging.test_relations import verdicts_of

SPEC = TensorSpec(seed=7)
CASE = AttentionCase(Geometry(B=2, Hq=4, Hk=2, Nq=4, Nk=5, d=3), q=SPEC, operation="forward_backward")
CAUSAL = CASE.replace(features=Features(causal=True, return_lse=True), dLSE=TensorSpec(layout="expanded_all"))
RIGHT = [
    CASE,
    CAUSAL,
    CASE.replace(dtype="fp16", features=Features(seqlens_k=(0, 3), return_lse=True, scale=-0.5), dLSE=TensorSpec()),
    CASE.replace(dtype="bf16", features=Features(causal=True, seqlens_k=(2, 5)), past_end="nan"),
    CASE.replace(dO=TensorSpec("constant", layout="expanded_all"), needs_grad=("k", "v")),
    CASE.replace(k=TensorSpec(layout="expanded_heads"), dO=TensorSpec("large", layout="bshd")),
    CASE.replace(geometry=Geometry(Nq=0), features=Features(return_lse=True)),
    CASE.replace(geometry=Geometry(Nk=0)),
]


def base(case=CASE, function=toys.right):
    return Base.of(attempt(describe(function), case, "cpu"))


def claimed(claims):
    return {claim.tensor for claim in claims}


@pytest.mark.parametrize("case", RIGHT, ids=repr)
def test_relations_are_silent_on_right_gradients(case):
    kept = tuple(set(EXACT) - {"mask_invariant"})  # the toy weighs NaN that the diagonal hides with 0
    assert verdicts_of(toys.right, case, RELATIONS, kept) == []


def test_a_further_call_has_the_backward_of_the_base():
    start = base(CAUSAL)
    again = start.again()
    assert again.case == CAUSAL
    assert all(torch.equal(again.gradients[name], start.gradients[name]) for name in ("dQ", "dK", "dV"))
    assert start.again(backward=False).gradients == {}


def test_a_new_dO_lies_as_the_old_one_did():
    start = base(CASE.replace(dO=TensorSpec(layout="bshd")))
    again = start.again(dO=-start.problem.dO)
    assert again.problem.dO.stride() == start.problem.dO.stride()
    assert torch.equal(again.gradients["dV"], -start.gradients["dV"])


def test_dLSE_can_be_changed_and_goes_with_LSE():
    start = base(CAUSAL)
    zero = start.again(dLSE=torch.zeros_like(start.problem.dLSE))
    without = start.again(return_lse=False)
    assert (zero.case.dLSE, without.case.dLSE) == (CAUSAL.dLSE, None)
    assert torch.equal(zero.gradients["dQ"], without.gradients["dQ"])
    assert not torch.equal(zero.gradients["dQ"], start.gradients["dQ"])


def test_fewer_inputs_may_need_a_gradient():
    assert list(base().again(needs_grad=("k",)).gradients) == ["dK"]


def test_a_forward_may_be_given_a_backward():
    forward = base(CASE.replace(operation="forward"))
    assert forward.gradients == {}
    again = forward.again(dO=LaidOut(torch.ones_like(forward.O)))
    assert set(again.gradients) == {"dQ", "dK", "dV"}
    assert again.compared["dQ"].ok


def test_a_dO_of_another_shape_must_be_said():
    start = base()
    q, dO = start.problem.q[:1], start.problem.dO[:1]
    kv = {"k": start.problem.k[:1], "v": start.problem.v[:1]}
    assert start.again(q=q, **kv).gradients == {}
    assert set(start.again(q=q, dO=dO, **kv).gradients) == {"dQ", "dK", "dV"}


def test_gradients_are_claimed_where_they_stand_for_one_another():
    start, rows = base(), (slice(None), slice(None), slice(0, 2))
    other = start.again()
    assert claimed(start.same(other, "x")) == {"O", "dQ", "dK", "dV"}
    assert claimed(start.same(other, "x", gradients=("dV",))) == {"O", "dV"}
    assert claimed(start.same(other, "x", here=rows, there=rows)) == {"O", "dQ"}
    assert claimed(start.same(other, "x", here=rows, there=rows, keys_here=rows)) == {"O", "dQ", "dK", "dV"}
    assert claimed(start.same(start.again(backward=False), "x")) == {"O"}


def test_bits_of_gradients_are_promised_of_the_same_call_alone():
    start = base()
    exact = {kind: [c.exact for c in start.same(start.again(), "x", kind=kind)] for kind in (None, "not_repeatable")}
    assert exact == {None: [True, False, False, False], "not_repeatable": [True] * 4}


def drifting_gradient():
    """Every second dV is one bit off."""
    calls = itertools.count()

    def off(dV):
        return dV.nextafter(torch.full_like(dV, torch.inf)) if next(calls) % 2 else dV

    return lambda q, k, v: toys.right(q, k, toys.passed(v, off))


def one_buffer():
    """dV lies in a buffer that the next backward writes again."""
    kept = {}
    return lambda q, k, v: toys.right(
        q, k, toys.passed(v, lambda dV: kept.setdefault(dV.shape, torch.empty_like(dV)).copy_(dV))
    )


def wrong_alone():
    return lambda q, k, v: toys.right(q, toys.passed(k, lambda dK: dK * (1.01 if k.shape[1] == 1 else 1)), v)


FIRES = {
    "same_call_twice": (drifting_gradient, "not_repeatable"),
    "first_output_kept": (one_buffer, "output_aliased"),
    "alone_as_in_batch": (wrong_alone, "wrong_gradient"),
}


@pytest.mark.parametrize("name", FIRES)
def test_relations_fire_on_gradients(name):
    make, kind = FIRES[name]
    (verdict,) = verdicts_of(make(), CASE, [name])
    assert (verdict.kind, verdict.check, verdict.tensor[0]) == (kind, name, "d")
    assert verdicts_of(make(), CASE.replace(operation="forward"), [name]) == []
