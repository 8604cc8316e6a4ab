"""The budget of gradients passes right backward passes and fails those that are imprecise or wrong."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from oracles import Answer, Comparison, GradientBudget, compare, float64, gradient_budget, gradients64
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec, attention_cases, build
from tests.oracles.emulation import Backward, flash, keep_bits

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BACKWARD = AttentionCase(operation="forward_backward")
SQUARE = BACKWARD.replace(geometry=Geometry(B=2, Hq=2, Hk=2, Nq=64, Nk=64, d=32), dtype="fp16", features=Features(True))
SMALL = {"gradients": "only", "max_work": 3 << 13, "history": False}
LOW = pytest.mark.parametrize("dtype", ["fp16", "bf16"])
EVERY = pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])


def budget_of(problem: Problem, **kind) -> GradientBudget:
    truth = float64(problem)
    return gradient_budget(problem, truth, gradients64(problem, truth), **kind)


def ratios(problem: Problem, backward: Backward, **kind) -> dict[str, float]:
    """Largest error/budget of dQ, dK and dV that a backward pass makes of the forward pass of a tiled kernel."""
    found = compare_gradients(problem, backward(problem, flash(problem, backward.tile, kind.get("p_dtype"))), **kind)
    return {name: comparison.ratio for name, comparison in found.items()}


def compare_gradients(problem: Problem, answer: Answer, **kind) -> dict[str, Comparison]:
    """The gradients of an answer against the truth."""
    truth, budget = gradients64(problem, float64(problem)), budget_of(problem, **kind)
    return {name: compare(got, truth[name], budget[name]) for name, got in answer.gradients.items()}


def fires(problem: Problem, backward: Backward, *names: str, by: float = 2.0) -> bool:
    """Whether exactly these gradients are off by this many budgets, and none if nothing is wrong."""
    right, wrong = ratios(problem, Backward(backward.tile)), ratios(problem, backward)
    assert max(right.values()) <= 1
    return all((ratio > by) if name in names else (ratio <= 1) for name, ratio in wrong.items())


# Silent.


@example(
    case=AttentionCase(
        Geometry(Hq=2, Nq=41, Nk=2, d=1),
        "fp16",
        operation="forward_backward",
        dO=TensorSpec(seed=(1 << 32) - 2),
        **{x: TensorSpec("large" if x == "v" else "constant", seed=(1 << 32) - 2) for x in "qkv"},
    ),
    tile=16,
    rounds=True,
)
@given(case=attention_cases(**SMALL), tile=st.sampled_from((16, 32, 64)), rounds=st.booleans())
def test_a_tiled_backward_is_within_the_budget(case, tile, rounds):
    found = ratios(build(case), Backward(tile, rounds_heads=rounds))
    assert max(found.values()) <= 1, found


@given(case=attention_cases(**SMALL, families=["normal"], scale=False, layouts=["contiguous"]))
def test_a_tiled_backward_is_within_the_sharper_budget_of_independent_values(case):
    found = ratios(build(case), Backward(), independent=True)
    assert max(found.values()) <= 1, found


@given(case=attention_cases(**SMALL, dtypes=["fp32"]))
def test_the_budget_knows_the_dtype_that_p_is_cast_to(case):
    low = keep_bits(7)
    found = ratios(build(case), Backward(cast_P=low, cast_dS=low), p_dtype=torch.bfloat16)
    assert max(found.values()) <= 1, found


# Firing.


@EVERY
def test_fires_on_a_delta_that_is_missing(dtype):
    assert fires(build(SQUARE.replace(dtype=dtype)), Backward(delta=lambda dO, O: 0 * O[..., :1]), "dQ", "dK")


@EVERY
def test_fires_on_a_delta_of_the_row_before(dtype):
    late = Backward(delta=lambda dO, O: (dO * O).sum(-1, keepdim=True).roll(1, -2))
    assert fires(build(SQUARE.replace(dtype=dtype)), late, "dQ", "dK")


@EVERY
def test_fires_on_a_delta_of_the_other_head(dtype):
    other = Backward(delta=lambda dO, O: (dO * O).sum(-1, keepdim=True).flip(1))
    assert fires(build(SQUARE.replace(dtype=dtype)), other, "dQ", "dK")


@LOW
def test_fires_on_sums_over_tiles_in_the_low_dtype(dtype):
    case = SQUARE.replace(geometry=Geometry(Nq=2000, Nk=4, d=16), dtype=dtype, features=Features())
    problem = build(case.replace(dO=TensorSpec("positive")))
    assert ratios(problem, Backward(16))["dV"] <= 1
    assert ratios(problem, Backward(16, cast_sum=lambda acc: acc.to(TORCH[dtype]).float()))["dV"] > 1.5


def test_fires_on_sums_of_dK_in_the_low_dtype_where_values_are_independent():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=1000, Nk=16, d=64), dtype="bf16"))
    low = Backward(16, cast_sum=lambda acc: acc.bfloat16().float())
    assert ratios(problem, Backward(16), independent=True)["dK"] < 0.6
    assert ratios(problem, low, independent=True)["dK"] > 1


@EVERY
@pytest.mark.parametrize("names", [("dQ",), ("dQ", "dK")])
def test_fires_on_a_scale_that_is_another_or_left_out(dtype, names):
    wrong = Backward(scale_dQ=1.1) if names == ("dQ",) else Backward(scale=1.0)
    problem = build(SQUARE.replace(dtype=dtype))
    found = ratios(problem, wrong)
    assert min(found[name] for name in names) > 2


@EVERY
def test_fires_on_another_alignment_than_that_of_the_forward_pass(dtype):
    problem = build(SQUARE.replace(geometry=Geometry(Nq=33, Nk=34, d=16), dtype=dtype))
    other = replace(problem, features=problem.features.replace(causal="lower_right"))
    answer = Backward()(other, flash(problem))
    assert min(found.ratio for found in compare_gradients(problem, answer).values()) > 2


@EVERY
def test_fires_on_a_gradient_through_lse_that_is_forgotten(dtype):
    case = SQUARE.replace(dtype=dtype, features=Features(return_lse=True), dLSE=TensorSpec())
    assert fires(build(case), Backward(uses_dLSE=False), "dQ", "dK")


@EVERY
@pytest.mark.parametrize("take", [lambda heads: heads[:, :, -1], lambda heads: 2 * heads.sum(2)], ids=["last", "twice"])
def test_fires_on_a_group_that_is_overwritten_or_counted_twice(dtype, take):
    problem = build(SQUARE.replace(geometry=Geometry(Hq=4, Hk=2, Nq=16, Nk=16, d=16), dtype=dtype))
    assert fires(problem, Backward(over_group=take), "dK", "dV")


@LOW
def test_fires_on_a_P_that_is_cut_off_to_few_bits(dtype):
    problem = build(SQUARE.replace(dtype=dtype, dO=TensorSpec("positive")))
    assert fires(problem, Backward(cast_P=keep_bits(5, truncate=True)), "dV", by=1.5)


@LOW
def test_fires_on_a_dS_with_too_few_bits(dtype):
    case = SQUARE.replace(dtype=dtype, k=TensorSpec("positive"), q=TensorSpec("positive"), dO=TensorSpec("tiny"))
    problem = build(case.replace(features=Features(return_lse=True), dLSE=TensorSpec("positive")))
    assert fires(problem, Backward(cast_dS=keep_bits(4, truncate=True)), "dQ", "dK", by=1.5)


def test_fires_on_inputs_in_tf32():
    problem = build(SQUARE.replace(dtype="fp32"))
    assert fires(problem, Backward(cast_P=keep_bits(10), cast_dS=keep_bits(10)), "dQ", "dK", "dV", by=5)


@EVERY
@pytest.mark.parametrize(("name", "place"), [("dQ", 0), ("dK", -1), ("dV", -1)])
def test_fires_on_zeros_and_on_a_number_where_nothing_is_seen(dtype, name, place):
    case = BACKWARD.replace(
        geometry=Geometry(Nq=5, Nk=3, d=8), dtype=dtype, features=Features("lower_right", None, (2,))
    )
    problem = build(case)
    right = Backward()(problem, flash(problem))
    assert compare_gradients(problem, right)[name].ok
    assert compare_gradients(problem, replace(right, gradients={name: 0 * right.gradients[name]}))[name].ratio > 2
    assert not right.gradients[name][:, :, place].any()
    right.gradients[name][:, :, place] = 1e-7
    assert compare_gradients(problem, right)[name].ratio == math.inf


# What the bounds promise.


def test_fp16_casts_of_dS_past_its_range_promise_nothing_of_what_they_reach():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=2, Nk=3, d=4), dtype="fp16", features=Features(True)))
    problem.dO[0, 0, 1] = 6e4 * problem.v[0, 0, 0].sign()
    problem = replace(problem, v=8 * problem.v)
    budget = budget_of(problem)
    assert budget["dQ"].isinf().all(-1).flatten().tolist() == [False, True]
    assert budget["dK"].isinf().all(-1).flatten().tolist() == [True, True, False]
    assert budget["dV"].isfinite().all()
    assert (budget["dK"][..., 2, :] == 0).all()


def test_fp32_scores_past_its_range_promise_no_gradient():
    problem = build(BACKWARD.replace(geometry=Geometry(Nk=2)))
    huge = replace(problem, q=problem.q * 0 + 1e30, k=problem.k * 1e30)
    budget = budget_of(huge)
    assert all(tensor.isinf().all() for tensor in (budget["dQ"], budget["dK"], budget["dV"]))


def test_sums_past_the_range_of_fp32_promise_nothing_of_what_they_make():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=2, Nk=8, d=2)))
    k = torch.full_like(problem.k, 3e38)
    k[..., 1] = 1.0
    budget = budget_of(replace(problem, q=0 * problem.q, k=k, dO=8 * problem.dO))
    assert budget["dQ"].isinf().flatten().tolist() == [True, False] * 2
    assert budget["dK"].isfinite().all()
    assert budget["dV"].isfinite().all()


def test_an_output_past_the_range_of_fp32_leaves_its_rows_no_delta():
    problem = build(BACKWARD.replace(geometry=Geometry(Nq=2, Nk=8, d=2)))
    v = torch.full_like(problem.v, 3e38)
    budget = budget_of(replace(problem, q=0 * problem.q, v=v, dO=0 * problem.dO))
    assert budget["dQ"].isinf().all()
    assert budget["dK"].isinf().all()
    assert budget["dV"].isfinite().all()


def test_a_scale_of_0_leaves_dQ_and_dK_no_room():
    budget = budget_of(build(SQUARE.replace(features=Features(scale=0.0))))
    assert not budget["dQ"].any()
    assert not budget["dK"].any()
    assert (budget["dV"] > 0).all()


@given(case=attention_cases(**SMALL))
def test_the_parts_add_up_to_the_budget(case):
    problem = build(case)
    budget = budget_of(problem, independent=case.q.seed % 2 == 0)
    for name in ("dQ", "dK", "dV"):
        whole = budget[name]
        if budget.sums and whole.numel():
            index = tuple(size // 2 for size in whole.shape)
            assert sum(budget.parts(name, index).values()) == pytest.approx(whole[index].item(), rel=1e-12)


@given(case=attention_cases(**SMALL))
def test_a_budget_is_a_number_and_zero_where_nothing_is_seen_alone(case):
    problem = build(case)
    truth, budget = float64(problem), budget_of(problem)
    seen = torch.ones_like(truth.S) if truth.hidden is None else (~truth.hidden).expand_as(truth.S)
    rows, keys = seen.any(-1), seen.any(-2).unflatten(1, (problem.k.shape[1], -1)).any(2)
    for tensor, reached in ((budget["dQ"], rows), (budget["dK"], keys), (budget["dV"], keys)):
        assert (tensor >= 0).all()
        has_room = reached.bool() & (problem.scale != 0 or tensor is budget["dV"])
        # inf where the cast of dS may overflow: 0 times that is no number.
        assert (((tensor > 0) == has_room.unsqueeze(-1)) | tensor.isinf()).all()


def test_the_sharper_budget_of_independent_values_is_never_the_larger_one():
    problem = build(SQUARE.replace(geometry=Geometry(Nq=200, Nk=200, d=16), dtype="bf16", features=Features()))
    plain, sharper = budget_of(problem), budget_of(problem, independent=True)
    for name in ("dQ", "dK", "dV"):
        assert (sharper[name] <= plain[name] * (1 + 1e-12)).all()
    assert sharper["dV"].sum() < 0.8 * plain["dV"].sum()


def test_a_budget_says_which_kernel_it_is_for():
    problem = build(SQUARE)
    assert budget_of(problem).is_for(torch.float16)
    assert not budget_of(problem).is_for(torch.bfloat16)
    assert not budget_of(problem, p_dtype=torch.float32).is_for(torch.float16)


@LOW
def test_fires_on_the_flash_backend_of_torch_on_a_cpu(dtype):
    """A widely used kernel: it sums dV over blocks of queries in the inputs' dtype, and only that fails."""
    case = SQUARE.replace(geometry=Geometry(2, 4, 4, 263, 8, 64), dtype=dtype, features=Features(scale=0.05))
    problem = build(case.replace(dO=TensorSpec("positive")))
    leaves = {name: getattr(problem, name).detach().requires_grad_() for name in "qkv"}
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        O = scaled_dot_product_attention(leaves["q"], leaves["k"], leaves["v"], scale=problem.scale)
    dQ, dK, dV = torch.autograd.grad(O, tuple(leaves.values()), problem.dO)
    found = compare_gradients(problem, Answer(O.detach(), None, {"dQ": dQ, "dK": dK, "dV": dV}))
    assert [name for name, comparison in found.items() if not comparison.ok] == ["dV"]
