"""Every registered oracle agrees with the truth; a new one is tested once it is registered."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given

from oracles import ORACLES, Answer, Comparison, Judgement, Oracle, compare_answer, float64, gradients64
from oracles.registry import make_oracle
from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build
from strategies.case import DTYPES
from strategies.features.causal import KINDS
from strategies.features.seqlens_k import PAST_END
from strategies.layouts import LAYOUTS
from strategies.values import FAMILIES

MOST_WORK = 1 << 12
every_oracle = pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES.keys())


def compare_case(oracle: Oracle, case: AttentionCase, device: str) -> Comparison:
    """Compare the oracle's answer with the truth; assert its form and that inputs are unchanged."""
    problem, pristine = build(case, device), build(case, device)
    answer = oracle(problem)
    assert answer.O.shape == problem.q.shape
    assert answer.LSE is None or answer.LSE.shape == problem.q.shape[:3]
    shapes = {"dQ": problem.q.shape, "dK": problem.k.shape, "dV": problem.v.shape}
    assert all(tensor.shape == shapes[name] for name, tensor in answer.gradients.items())
    assert not answer.gradients or case.has_gradients
    for name, before in pristine.tensors.items():
        assert torch.equal(problem.tensors[name].nan_to_num(), before.nan_to_num())
    found = compare_answer(answer, Judgement(pristine))
    return max(found.values(), key=lambda comparison: comparison.ratio)


def conforms(oracle: Oracle, cases: list[AttentionCase], device: str = "cpu") -> int:
    """Assert that the oracle is within budget, and return how many of the cases it answered."""
    answered = 0
    for case in cases:
        if not oracle.supports(build(case, device)):
            continue
        try:
            found = compare_case(oracle, case, device)
        except NotImplementedError:
            continue
        answered += 1
        assert found.ok, f"{oracle.name} on {case}: {found}"
    return answered


def small_box(causal) -> list[AttentionCase]:
    """All shapes up to 3 x 3, full, padded and empty, one and two query heads to a head of K and V."""
    cases = []
    for Nq, Nk, group in product(range(4), range(4), (1, 2)):
        geometry = Geometry(B=2, Hq=2 * group, Hk=2, Nq=Nq, Nk=Nk, d=2)
        for lengths in {None, (0, Nk), (Nk, min(1, Nk)), (max(0, Nk - 1), Nk)}:
            cases.append(AttentionCase(geometry, "fp32", Features(causal, seqlens_k=lengths), past_end="nan"))
    return cases


def spread() -> list[AttentionCase]:
    """Every value family with every dtype; every layout with every filling past the end; every kind of scale."""
    geometry = Geometry(B=2, Hq=4, Hk=2, Nq=9, Nk=17, d=8)
    padded = Features("lower_right", seqlens_k=(17, 5))
    cases = [
        AttentionCase(geometry, dtype, Features(True), *(TensorSpec(family, seed) for seed in range(3)))
        for family, dtype in product(FAMILIES, DTYPES)
    ]
    for layout, past_end in product(LAYOUTS, PAST_END):
        tensors = (TensorSpec("normal", seed, layout) for seed in range(3))
        cases.append(AttentionCase(geometry, "fp16", padded, *tensors, past_end=past_end))
    for causal, scale in product(KINDS, (0.0, -1.0, 4.0)):
        cases.append(AttentionCase(geometry, "fp32", Features(causal, scale)))
    return cases


@every_oracle
@pytest.mark.parametrize("causal", KINDS)
def test_agrees_with_the_truth_on_all_small_shapes(oracle, causal):
    cases = small_box(causal)
    assert conforms(oracle, cases) == (len(cases) if oracle.supports(build(cases[0])) else 0)


@every_oracle
def test_agrees_with_the_truth_on_all_families_dtypes_and_layouts(oracle):
    cases = spread()
    assert conforms(oracle, cases) == (len(cases) if oracle.supports(build(cases[0])) else 0)


@every_oracle
@given(case=attention_cases(max_work=MOST_WORK, history=False))
def test_agrees_with_the_truth_on_drawn_cases(oracle, case):
    conforms(oracle, [case])


def with_gradients(cases: list[AttentionCase]) -> list[AttentionCase]:
    """Add gradients to the cases, to every second one through LSE too; dO like q, expanded in one case of three."""
    asked = []
    for number, case in enumerate(cases):
        dO = case.q.replace(seed=3, layout="expanded_all" if number % 3 == 0 else case.q.layout)
        case = case.replace(operation="forward_backward", dO=dO)
        features = case.features.replace(return_lse=True)
        asked.append(case.replace(features=features, dLSE=TensorSpec(seed=4)) if number % 2 else case)
    return asked


@every_oracle
@pytest.mark.parametrize("causal", KINDS)
def test_gradients_agree_with_the_truth_on_all_small_shapes(oracle, causal):
    cases = with_gradients(small_box(causal))
    assert conforms(oracle, cases) == (len(cases) if oracle.supports(build(cases[0])) else 0)


@every_oracle
def test_gradients_agree_with_the_truth_on_all_families_dtypes_and_layouts(oracle):
    cases = with_gradients(spread())
    assert conforms(oracle, cases) == (len(cases) if oracle.supports(build(cases[0])) else 0)


@every_oracle
@given(case=attention_cases(max_work=3 * MOST_WORK, history=False, gradients="only"))
def test_gradients_agree_with_the_truth_on_drawn_cases(oracle, case):
    conforms(oracle, [case])


@pytest.mark.parametrize("name", ["numpy64", "naive_fp32", "sdpa_math"])
def test_three_oracles_give_all_gradients(name):
    problem = build(AttentionCase(Geometry(Nk=3), operation="forward_backward"))
    assert set(ORACLES[name](problem).gradients) == {"dQ", "dK", "dV"}


@every_oracle
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_agrees_with_the_truth_on_cuda(oracle):
    assert conforms(oracle, spread(), "cuda") > 0
    assert conforms(oracle, with_gradients(spread()), "cuda") > 0


@every_oracle
def test_says_what_it_is_and_what_it_lacks(oracle):
    problem = build(AttentionCase())
    assert oracle.description
    assert oracle.supports(problem) == (oracle.why_not(problem) is None)


def answer_of(problem, **features) -> Answer:
    """The right answer to the problem with other features."""
    asked = problem.features.replace(**features)
    brought = {name: tensor for name, tensor in problem.brought.items() if name in asked.asked()}
    return right_answer(replace(problem, features=asked, brought=brought))


def right_answer(problem) -> Answer:
    truth = float64(problem)
    return Answer(truth.O, truth.LSE)


def forgets_the_lengths(problem):
    """Reads past the end."""
    return answer_of(problem, seqlens_k=None)


def aligns_upper_left(problem):
    """Takes every causal mask for the upper-left one."""
    return answer_of(problem, causal=bool(problem.features.causal))


def forgets_the_scale(problem):
    """Scale 1."""
    return answer_of(problem, scale=1.0)


def speaks_in_base_two(problem):
    """LSE in base 2."""
    right = answer_of(problem)
    return Answer(right.O, right.LSE / torch.log(torch.tensor(2.0)))


def forgets_delta(problem):
    """dS = P∘dP."""
    right = gradients64(problem, float64(problem))
    dK = problem.scale * (right.P * right.dP).mT @ right.q
    return replace(answer_of(problem), gradients={"dK": dK.unflatten(1, (problem.k.shape[1], -1)).sum(2)})


def says_nan_in_the_gradient_of_an_empty_row(problem):
    """A row that sees no key gets a dQ of NaN."""
    right = answer_of(problem)
    dQ = gradients64(problem, float64(problem))["dQ"]
    return replace(right, gradients={"dQ": dQ.masked_fill(right.LSE.isneginf()[..., None], torch.nan)})


def says_nan_in_empty_rows(problem):
    """A row that sees no key becomes NaN."""
    right = answer_of(problem)
    return Answer(right.O.masked_fill(right.LSE.isneginf()[..., None], torch.nan), right.LSE)


@pytest.mark.parametrize(
    "wrong",
    [forgets_the_lengths, aligns_upper_left, forgets_the_scale, speaks_in_base_two, says_nan_in_empty_rows],
)
def test_a_wrong_oracle_does_not_conform(wrong):
    with pytest.raises(AssertionError, match=wrong.__name__):
        conforms(make_oracle(wrong), small_box("lower_right"))


@pytest.mark.parametrize("wrong", [forgets_delta, says_nan_in_the_gradient_of_an_empty_row])
def test_an_oracle_with_wrong_gradients_does_not_conform(wrong):
    with pytest.raises(AssertionError, match=wrong.__name__):
        conforms(make_oracle(wrong), with_gradients(small_box("lower_right")))
