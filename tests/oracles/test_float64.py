"""The truth follows the definition, and a hidden key never changes it."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch

from oracles import float64
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec, build


def by_hand(problem: Problem, b: int, h: int, i: int, keys: list[int]) -> tuple[list[float], float]:
    """O and LSE of one query over these keys in 50 decimal digits, from the definition and nothing else."""
    head = h // (problem.q.shape[1] // problem.k.shape[1])
    q, k, v = ([[Decimal(x) for x in row] for row in t.tolist()] for t in _rows(problem, b, h, head))
    with localcontext() as context:
        context.prec = 50
        scores = [Decimal(problem.scale) * sum(x * y for x, y in zip(q[i], k[j], strict=True)) for j in keys]
        weights = [score.exp() for score in scores]
        total = sum(weights)
        O = [sum(w * v[j][c] for w, j in zip(weights, keys, strict=True)) / total for c in range(len(q[i]))]
        return [float(x) for x in O], float(total.ln())


def _rows(problem: Problem, b: int, h: int, head: int) -> tuple[torch.Tensor, ...]:
    return problem.q[b, h].double(), problem.k[b, head].double(), problem.v[b, head].double()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("scale", [None, 0.0, -2.0, 7.5])
@pytest.mark.parametrize("causal", [False, True, "lower_right"])
def test_the_truth_is_the_definition(dtype, scale, causal):
    geometry = Geometry(B=2, Hq=4, Hk=2, Nq=5, Nk=4, d=3)
    case = AttentionCase(geometry, dtype, Features(causal, scale, (4, 2)), v=TensorSpec("outliers"), past_end="nan")
    problem, truth = build(case), float64(build(case))
    for b, h, i in [(0, 0, 4), (0, 3, 2), (1, 1, 4), (1, 2, 3)]:
        length = case.lengths[b]
        last = {False: length, True: i + 1, "lower_right": i + 1 + length - 5}[causal]
        O, LSE = by_hand(problem, b, h, i, list(range(min(length, last))))
        torch.testing.assert_close(truth.O[b, h, i], torch.tensor(O, dtype=torch.float64), rtol=1e-13, atol=1e-13)
        assert truth.LSE[b, h, i].item() == pytest.approx(LSE, rel=1e-13, abs=1e-13)


def test_what_the_budget_is_made_of_adds_up():
    problem = build(AttentionCase(Geometry(Nq=3, Nk=5, d=2), "fp32", Features(True)))
    truth = float64(problem)
    torch.testing.assert_close(truth.W.sum(-1, keepdim=True), truth.l)
    torch.testing.assert_close((truth.W @ truth.v) / truth.l, truth.O)
    assert truth.visible_keys.flatten().tolist() == [1, 2, 3]
    assert truth.W[..., 0, 1:].count_nonzero() == 0


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(Geometry(B=2, Nq=3, Nk=4, d=2), features=Features(seqlens_k=(0, 4))),
        AttentionCase(Geometry(B=2, Nq=3, Nk=0, d=2)),
        AttentionCase(Geometry(B=2, Nq=5, Nk=2, d=2), features=Features("lower_right")),
    ],
)
def test_a_row_that_sees_no_key_is_zero(case):
    truth = float64(build(case))
    is_empty = truth.visible_keys.expand(2, 1, -1, -1).expand_as(truth.l)[..., 0] == 0
    assert is_empty.any()
    assert (truth.O[is_empty] == 0).all()
    assert (truth.LSE[is_empty] == -math.inf).all()
    assert truth.LSE[~is_empty].isfinite().all()


def test_no_queries_give_no_rows():
    truth = float64(build(AttentionCase(Geometry(Nq=0, Nk=3))))
    assert truth.O.shape == (1, 1, 0, 1)
    assert truth.LSE.shape == (1, 1, 0)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tensor", ["k", "v"])
def test_a_hidden_key_never_matters(tensor, poison):
    problem = build(AttentionCase(Geometry(Nq=4, Nk=4, d=2), features=Features(True)))
    poisoned = getattr(problem, tensor).clone()
    poisoned[0, 0, 2] = poison
    before, after = float64(problem), float64(replace(problem, **{tensor: poisoned}))
    assert torch.equal(after.O[..., :2, :], before.O[..., :2, :])
    assert torch.equal(after.LSE[..., :2], before.LSE[..., :2])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_visible_value_that_is_not_finite_shows_in_its_column_alone(poison):
    problem = build(AttentionCase(Geometry(Nq=4, Nk=4, d=2), features=Features(True)))
    problem.v[0, 0, 2, 1] = poison
    truth = float64(problem)
    torch.testing.assert_close(truth.O[0, 0, 2:, 1], torch.full((2,), poison).double(), equal_nan=True)
    assert truth.O[..., 0].isfinite().all()
    assert truth.LSE.isfinite().all()


def test_infinities_of_both_signs_are_nan():
    problem = build(AttentionCase(Geometry(Nk=2)))
    problem.v[0, 0, :, 0] = torch.tensor([math.inf, -math.inf])
    assert float64(problem).O.isnan().all()


def test_a_nan_in_a_query_stays_in_its_row():
    problem = build(AttentionCase(Geometry(Nq=3, Nk=4, d=2)))
    problem.q[0, 0, 1, 0] = math.nan
    truth = float64(problem)
    assert truth.O.isnan().all(-1).flatten().tolist() == [False, True, False]
    assert truth.LSE.isnan().flatten().tolist() == [False, True, False]
