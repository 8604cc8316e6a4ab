"""The budget passes right kernels and fails those that are imprecise or wrong."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles import Answer, Budget, Comparison, compare, float64, forward_budget
from oracles.budget.arithmetic import Arithmetic
from oracles.budget.scores import perturb
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec, attention_cases, build
from tests.oracles.emulation import flash, keep_bits

SQUARE = AttentionCase(Geometry(B=2, Hq=2, Hk=2, Nq=64, Nk=64, d=32), "fp16", Features(True))
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def budget_of(problem: Problem, **kind) -> Budget:
    return forward_budget(problem, float64(problem), **kind)


def worst_comparison(problem: Problem, answer: Answer, **kind) -> Comparison:
    """The worse one of O and LSE against the truth."""
    truth = float64(problem)
    budget = forward_budget(problem, truth, **kind)
    O = compare(answer.O, truth.O, budget.O)
    return O if answer.LSE is None else max(O, compare(answer.LSE, truth.LSE, budget.LSE), key=lambda c: c.ratio)


def made_of(q, k, v, dtype="fp32", causal=False, scale=1.0) -> Problem:
    """A problem with one head of these rows."""
    q, k, v = (torch.tensor(rows, dtype=torch.float64).to(TORCH[dtype])[None, None] for rows in (q, k, v))
    return Problem(q, k, v, Features(causal, scale))


# Silent.


@given(case=attention_cases(max_work=1 << 13, history=False), tile=st.sampled_from((16, 32, 64)))
def test_a_tiled_kernel_is_within_the_budget(case, tile):
    problem = build(case)
    found = worst_comparison(problem, flash(problem, tile))
    assert found.ok, found


@given(case=attention_cases(max_work=1 << 13, families=["normal"], scale=False, history=False, layouts=["contiguous"]))
def test_a_tiled_kernel_is_within_the_sharper_budget_of_independent_values(case):
    problem = build(case)
    found = worst_comparison(problem, flash(problem), independent=True)
    assert found.ok, found


@given(case=attention_cases(dtypes=["fp32"], max_work=1 << 13, history=False))
def test_the_budget_knows_the_dtype_that_p_is_cast_to(case):
    problem = build(case)
    found = worst_comparison(problem, flash(problem, p_dtype=torch.bfloat16), p_dtype=torch.bfloat16)
    assert found.ok, found


@pytest.mark.parametrize("value", [1.37, 1.77, 1.91])
def test_a_chain_of_equal_terms_is_within_the_budget(value):
    Nk = 3000
    problem = made_of([[0.0]], [[0.0]] * Nk, [[value]] * Nk)
    chain = list(itertools.accumulate(problem.v.flatten(), torch.add))[-1]
    found = worst_comparison(problem, Answer((chain / Nk).view(1, 1, 1, 1)))
    assert found.ok
    assert worst_comparison(problem, Answer((chain / Nk).view(1, 1, 1, 1)), independent=True).ratio > found.ratio


def test_weights_that_are_flushed_to_zero_are_within_the_budget():
    problem = made_of([[1.0]], [[0.0], [-87.5]], [[0.0], [1.0]])
    assert worst_comparison(problem, Answer(torch.zeros(1, 1, 1, 1))).ok
    assert not worst_comparison(problem, Answer(torch.full((1, 1, 1, 1), 1e-36))).ok


def test_an_fp16_output_between_two_subnormal_numbers_may_round_either_way():
    spacing = 2.0**-24
    problem = made_of([[0.0]], [[0.0], [0.0]], [[spacing], [0.0]], "fp16")
    for rounded in (0.0, spacing):
        assert worst_comparison(problem, Answer(torch.full((1, 1, 1, 1), rounded, dtype=torch.float16))).ok


# Firing.


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_fires_on_scores_in_the_low_dtype(dtype):
    problem = build(SQUARE.replace(dtype=dtype, q=TensorSpec("outliers"), v=TensorSpec("positive")))
    assert worst_comparison(problem, flash(problem, cast_scores=lambda S: S.to(TORCH[dtype]).float())).ratio > 2


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_fires_on_a_sum_over_tiles_in_the_low_dtype(dtype):
    problem = build(AttentionCase(Geometry(Nq=8, Nk=1000, d=16), dtype, v=TensorSpec("positive")))
    assert worst_comparison(problem, flash(problem, 16, cast_sum=lambda acc: acc.to(TORCH[dtype]).float())).ratio > 1.5


def test_fires_on_weights_that_are_cut_off_instead_of_rounded():
    just_below = math.log(0.5 + 0.99 * 2**-8)
    problem = made_of([[1.0]], [[0.0]] + [[just_below]] * 7, [[0.0]] + [[1.0]] * 7)
    bf16 = {"p_dtype": torch.bfloat16}
    assert worst_comparison(problem, flash(problem, cast_P=keep_bits(7, truncate=True)), **bf16).ratio > 1.5
    assert worst_comparison(problem, flash(problem, cast_P=keep_bits(7)), **bf16).ok


def test_fires_on_inputs_in_tf32():
    problem = build(SQUARE.replace(dtype="fp32"))
    assert worst_comparison(problem, flash(problem, cast_input=keep_bits(10))).ratio > 10


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_fires_on_one_key_too_few_in_a_short_row(dtype):
    problem = build(AttentionCase(Geometry(Nq=4, Nk=5, d=16), dtype))
    asked, lengths = problem.features.replace(seqlens_k=(4,)), torch.tensor([4], dtype=torch.int32)
    short = replace(problem, features=asked, brought={"seqlens_k": lengths})
    assert worst_comparison(problem, flash(short)).ratio > 10


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_fires_on_a_forgotten_rescale(dtype):
    problem = build(SQUARE.replace(dtype=dtype))
    assert worst_comparison(problem, flash(problem, 16)).ok
    assert worst_comparison(problem, flash(problem, 16, rescales=False)).ratio > 10


def test_fires_on_an_lse_in_base_two():
    problem = build(SQUARE)
    right = flash(problem)
    assert worst_comparison(problem, Answer(right.O, right.LSE / math.log(2))).ratio > 1000


def test_fires_on_an_lse_that_leaves_the_scale_out():
    problem = build(SQUARE.replace(features=Features(scale=0.5)))
    assert (
        worst_comparison(
            problem, Answer(flash(problem).O, flash(replace(problem, features=problem.features.replace(scale=1.0))).LSE)
        ).ratio
        > 1000
    )


def test_fires_on_an_empty_row_whose_lse_is_plus_infinity():
    problem = build(AttentionCase(Geometry(Nq=5, Nk=2, d=4), features=Features("lower_right")))
    right = flash(problem)
    assert worst_comparison(problem, right).ok
    wrong = Answer(right.O, right.LSE.masked_fill(right.LSE.isneginf(), math.inf))
    assert worst_comparison(problem, wrong).ratio == math.inf


def test_fires_on_an_empty_row_that_is_not_zero():
    problem = build(AttentionCase(Geometry(Nq=5, Nk=2, d=4), features=Features("lower_right")))
    right = flash(problem)
    right.O[0, 0, 0, 0] = 1e-30
    assert worst_comparison(problem, right).ratio == math.inf


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_fires_on_an_output_that_is_three_units_off_in_the_last_place(dtype):
    problem = build(AttentionCase(Geometry(Nq=2, Nk=1, d=16), dtype))
    right = flash(problem).O
    assert worst_comparison(problem, Answer(right)).ok
    three_off = (right.view(torch.int16) + 3).view(TORCH[dtype])
    assert worst_comparison(problem, Answer(three_off)).ratio > 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_fires_on_zeros(dtype):
    problem = build(SQUARE.replace(dtype=dtype))
    assert worst_comparison(problem, Answer(torch.zeros_like(problem.q))).ratio > 50


def test_the_sharper_budget_fires_on_what_the_other_lets_pass():
    problem = build(SQUARE.replace(geometry=Geometry(Nq=4, Nk=1000, d=16), dtype="bf16", features=Features()))
    low = flash(problem, cast_P=keep_bits(4))
    assert worst_comparison(problem, low).ok
    assert not worst_comparison(problem, low, independent=True).ok


# What the bounds promise.


def test_one_key_leaves_the_scores_nothing_to_spoil():
    budget = budget_of(build(AttentionCase(Geometry(Nq=1, Nk=1, d=64))))
    assert budget.parts("O", (0, 0, 0, 0))["scores"] < 1e-12
    assert budget.parts("LSE", (0, 0, 0))["scores"] > 1e-7


def test_equal_values_leave_the_scores_nothing_to_spoil():
    budget = budget_of(build(AttentionCase(Geometry(Nq=1, Nk=50, d=8), v=TensorSpec("constant"))))
    assert budget.parts("O", (0, 0, 0, 0))["scores"] < 1e-11


def test_scores_of_any_error_leave_o_in_the_hull_of_the_values():
    problem = made_of([[3e4] * 64], [[1.0] * 64, [-1.0] * 64], [[1.0], [-2.0]], scale=1e5)
    problem = replace(problem, v=problem.v.expand(1, 1, 2, 64))
    truth = float64(problem)
    budget = forward_budget(problem, truth)
    assert (truth.O == 1).all()
    assert budget.parts("O", (0, 0, 0, 0))["scores"] == 3
    assert budget.LSE.isfinite().all()


@pytest.mark.parametrize("error", [1e-6, 1e-2, 0.4, 2.0, 40.0])
def test_wrong_scores_move_o_and_lse_no_farther_than_the_bound(error):
    truth = float64(build(AttentionCase(Geometry(Nq=16, Nk=24, d=16), "fp32", Features(True))))
    e = torch.linspace(error / 2, error, 24).to(truth.S).expand_as(truth.S).masked_fill(truth.hidden, 0.0)
    bound = perturb(truth, e.clone())
    S = truth.S.masked_fill(truth.hidden, -math.inf)
    for column in range(16):
        away = (truth.v[..., None, :, column] - truth.O[..., column, None]).sign()
        moved = ((S + e * away).softmax(-1) @ truth.v - truth.O)[..., column].abs()
        assert (moved <= bound.moved[..., column] * (1 + 1e-12)).all()
        assert (moved > 0.15 * bound.moved[..., column]).any()
    drift = ((S + e).logsumexp(-1) - truth.LSE).abs()
    assert (drift <= bound.drift.squeeze(-1) * (1 + 1e-9)).all()
    assert (drift > 0.5 * bound.drift.squeeze(-1)).any()


def test_fp32_scores_past_its_range_promise_nothing():
    problem = made_of([[1e30]], [[1e30], [1.0]], [[1.0], [2.0]])
    budget = budget_of(problem)
    assert budget.O.isinf().all()
    assert budget.LSE.isinf().all()
    assert worst_comparison(problem, Answer(torch.full((1, 1, 1, 1), math.nan))).ok


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_products_past_the_range_of_fp32_are_seen_at_a_tiny_scale(scale):
    assert budget_of(made_of([[1e30]], [[1e30], [1.0]], [[1.0], [2.0]], scale=scale)).O.isinf().all()


def test_sums_of_values_past_the_range_of_fp32_promise_no_o():
    budget = budget_of(made_of([[0.0]], [[0.0]] * 8, [[3e38, 1.0]] * 8))
    assert budget.O.isinf().flatten().tolist() == [True, False]
    assert budget.LSE.isfinite().all()


@given(case=attention_cases(max_work=1 << 12, history=False))
def test_the_parts_add_up_to_the_budget(case):
    problem = build(case)
    budget = budget_of(problem)
    if budget.O.numel():
        index = tuple(size // 2 for size in budget.O.shape)
        assert sum(budget.parts("O", index).values()) == pytest.approx(budget.O[index].item(), rel=1e-12)
        assert sum(budget.parts("LSE", index[:3]).values()) == pytest.approx(budget.LSE[index[:3]].item(), rel=1e-12)


@given(case=attention_cases(max_work=1 << 12, history=False))
def test_a_budget_is_a_number_and_zero_in_empty_rows_alone(case):
    problem = build(case)
    truth = float64(problem)
    budget = forward_budget(problem, truth)
    is_empty = (truth.visible_keys == 0).expand_as(truth.l)
    assert ((budget.LSE == 0) == is_empty.squeeze(-1)).all()
    assert ((budget.O == 0) == is_empty).all()
    assert (budget.O >= 0).all()


def test_a_cast_to_the_same_precision_rounds_nothing():
    assert Arithmetic.of(torch.float32).u_p == 0
    assert Arithmetic.of(torch.float32, torch.bfloat16).u_p == 2**-8
    assert Arithmetic.of(torch.float16).u_p == Arithmetic.of(torch.float16).u_io == 2**-11
    assert Arithmetic.of(torch.float16).tiny_p == 2**-25
    assert Arithmetic.of(torch.bfloat16).tiny_p == 2**-126
