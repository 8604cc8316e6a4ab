"""The gradients of the truth follow the definition, and a hidden key never changes them."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given

from oracles import Gradients, float64, gradients64
from oracles.features import visible
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec, attention_cases, build

BACKWARD = AttentionCase(operation="forward_backward")


def by_autograd(problem: Problem) -> tuple[torch.Tensor, ...]:
    """dQ, dK, dV by torch's autograd of a plain float64 formula; rows that see no key are left out of it."""
    q, k, v = leaves = [
        t.double().nan_to_num(0.0, 0.0, 0.0).requires_grad_() for t in (problem.q, problem.k, problem.v)
    ]
    k, v = (tensor.repeat_interleave(problem.group, 1) for tensor in (k, v))
    S = problem.scale * (q @ k.mT)
    seen = visible(problem)
    seen = torch.ones_like(S, dtype=torch.bool) if seen is None else seen.expand_as(S)
    has_keys = seen.any(-1, keepdim=True)
    S = S.masked_fill(~seen & has_keys, -torch.inf)
    O = torch.where(has_keys, S.softmax(-1) @ v, 0.0)
    LSE = torch.where(has_keys, S.logsumexp(-1, keepdim=True), 0.0).squeeze(-1)
    dLSE = torch.zeros_like(LSE) if problem.dLSE is None else problem.dLSE.double()
    return torch.autograd.grad((O, LSE), leaves, (problem.dO.double(), dLSE))


@given(case=attention_cases(gradients="only", max_work=1 << 12, max_length=200, history=False))
def test_the_formula_is_what_autograd_makes_of_the_definition(case):
    if case.geometry.Nk == 0:
        return
    problem = build(case)
    truth = float64(problem)
    found = gradients64(problem, truth)
    # What cancels in dS leaves the roundings of its terms.
    terms = 1 + largest(found.dP) + largest(found.delta) + largest(problem.dO.double())
    factors = (1 + abs(problem.scale)) * (1 + max(largest(truth.q), largest(truth.k)))
    atol = 1e-13 * (1 + largest(truth.S)) * terms * factors * case.geometry.d
    for got, want in zip((found["dQ"], found["dK"], found["dV"]), by_autograd(problem), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=atol)


def largest(x: torch.Tensor) -> float:
    return x.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if x.numel() else 0.0


def gradients_of(problem: Problem) -> Gradients:
    return gradients64(problem, float64(problem))


def test_what_the_gradients_are_made_of_adds_up():
    found = gradients_of(build(BACKWARD.replace(geometry=Geometry(Hq=2, Nq=3, Nk=5, d=2), features=Features(True))))
    torch.testing.assert_close(found.heads["dV"].sum(1, keepdim=True), found["dV"])
    torch.testing.assert_close(found.heads["dK"].sum(1, keepdim=True), found["dK"])
    torch.testing.assert_close(found.dS.sum(-1), torch.zeros(1, 2, 3).double())
    torch.testing.assert_close(found.P @ found.dO.new_ones(5, 1), found.dO.new_ones(1, 2, 3, 1))


def test_delta_is_the_product_of_dO_and_O():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=3, Nk=5, d=2), features=Features(True)))
    dO_O = (problem.dO.double() * float64(problem).O).sum(-1, keepdim=True)
    torch.testing.assert_close(gradients_of(problem).delta, dO_O)


@pytest.mark.parametrize(
    "features", [Features("lower_right", return_lse=True), Features(return_lse=True, seqlens_k=(0,))]
)
def test_what_sees_nothing_has_a_gradient_of_0_though_its_lse_is_infinite(features):
    case = BACKWARD.replace(geometry=Geometry(Nq=5, Nk=2, d=2), features=features, dLSE=TensorSpec())
    found = gradients_of(build(case))
    assert not found["dQ"][:, :, :3].any()
    assert all(tensor.isfinite().all() for tensor in (found["dQ"], found["dK"], found["dV"]))


def test_one_visible_key_leaves_nothing_to_move():
    found = gradients_of(build(BACKWARD.replace(geometry=Geometry(Nq=4, d=8))))
    assert not found["dQ"].any()
    assert not found["dK"].any()
    assert found["dV"].all()


def test_lse_alone_gives_the_mean_key_and_no_dV():
    case = BACKWARD.replace(geometry=Geometry(Nq=2, Nk=3, d=2), features=Features(return_lse=True), dLSE=TensorSpec())
    problem = build(case)
    problem = replace(problem, dO=0 * problem.dO)
    found = gradients_of(problem)
    mean_key = found.P @ problem.k.double()
    torch.testing.assert_close(found["dQ"], problem.scale * problem.dLSE.double()[..., None] * mean_key)
    assert not found["dV"].any()


@pytest.mark.parametrize("past_end", ["nan", "inf", "huge"])
def test_what_is_past_the_end_never_matters(past_end):
    features = Features("lower_right", seqlens_k=(2, 0))
    case = BACKWARD.replace(geometry=Geometry(B=2, Hq=2, Nq=4, Nk=3, d=2), features=features)
    filled, plain = (gradients_of(build(case.replace(past_end=fill))) for fill in (past_end, "values"))
    for name in ("dQ", "dK", "dV"):
        assert torch.equal(filled[name], plain[name])
    assert not filled["dK"][0, :, 2].any()
    assert not filled["dV"][1].any()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("tensor", ["q", "k", "v", "dO"])
def test_a_nan_reaches_what_sees_it_and_nothing_else(tensor, poison):
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=4, Nk=4, d=2), features=Features(True)))
    poisoned = getattr(problem, tensor).clone()
    poisoned[0, 0, 2] = poison
    before, after = gradients_of(problem), gradients_of(replace(problem, **{tensor: poisoned}))
    is_row = tensor in ("q", "dO")
    reached = [False, False, True, not is_row]
    assert after["dQ"].isnan().any(-1).flatten().tolist() == reached
    assert torch.equal(after["dQ"][..., :2, :], before["dQ"][..., :2, :])
    assert after["dK"].isnan().any(-1).flatten().tolist() == [True, True, True, not is_row]


def test_a_poisoned_dO_stays_in_its_column_of_dV():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=4, Nk=4, d=2), features=Features(True)))
    problem.dO[0, 0, 2, 1] = math.nan
    dV = gradients_of(problem)["dV"]
    assert dV[..., 1].isnan().flatten().tolist() == [True, True, True, False]
    assert dV[..., 0].isfinite().all()


def test_a_problem_without_dO_is_refused():
    with pytest.raises(ValueError, match="A problem without dO has no gradients"):
        gradients_of(build(AttentionCase()))
