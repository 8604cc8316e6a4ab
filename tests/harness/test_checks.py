"""Every check fires on what it is for, and is silent on a right subject."""

import pytest

from harness.attempt import attempt
from harness.checks import CHECKS
from harness.judge import judge
from harness.run import Refused
from harness.subject import describe
from strategies import AttentionCase, Features, Geometry, TensorSpec

from . import toys

SQUARE = AttentionCase(Geometry(B=2, Hq=2, Nq=5, Nk=5, d=4), dtype="fp16")
CAUSAL = SQUARE.replace(features=Features(causal=True))
EMPTY = SQUARE.replace(features=Features(seqlens_k=(0, 3)), past_end="nan")
WITH_LSE = SQUARE.replace(features=Features(return_lse=True))
LONG = AttentionCase(Geometry(Nk=65))
EMPTY_WITH_LSE = EMPTY.replace(features=EMPTY.features.replace(return_lse=True))

FIRES = [
    (toys.raises_on_long_keys, LONG, "raised", "returns"),
    (toys.scales_in_place, SQUARE, "input_mutated", "inputs_unchanged"),
    (toys.writes_past_q, SQUARE, "out_of_bounds", "surroundings_unchanged"),
    (toys.returns_fp32, SQUARE, "wrong_shape_or_dtype", "form"),
    (toys.returns_extra_row, SQUARE, "wrong_shape_or_dtype", "form"),
    (toys.ignores_causal, CAUSAL, "wrong_values", "values"),
    (toys.nan_on_empty_rows, EMPTY, "not_finite", "values"),
    (toys.leaves_last_row, SQUARE, "not_finite", "values"),
    (toys.lse_in_base_2, WITH_LSE, "wrong_lse", "lse"),
]


def verdicts(function, case):
    return judge(attempt(describe(function), case, "cpu"))


@pytest.mark.parametrize(("function", "case", "kind", "check"), FIRES, ids=lambda x: getattr(x, "__name__", None))
def test_fires(function, case, kind, check):
    assert [(v.kind, v.check) for v in verdicts(function, case)] == [(kind, check)]


@pytest.mark.parametrize("case", [SQUARE, CAUSAL, EMPTY, WITH_LSE, EMPTY_WITH_LSE, LONG], ids=repr)
def test_silent_on_right(case):
    assert verdicts(toys.right, case) == []


def test_every_check_has_a_case_that_fires():
    assert {check for *_, check in FIRES} == set(CHECKS)


@pytest.mark.parametrize("layout", ["contiguous", "bshd", "padded_rows", "sliced", "column_major"])
def test_a_write_to_an_element_is_told_from_one_beside_it(layout):
    q = TensorSpec(layout=layout)
    found = verdicts(toys.scales_in_place, SQUARE.replace(q=q, k=q, v=q))
    assert {v.kind for v in found} == {"input_mutated"}


def test_refusal_is_no_failure():
    with pytest.raises(Refused, match="bf16 is not supported"):
        verdicts(toys.refuses_bf16, SQUARE.replace(dtype="bf16"))


def test_keyword_that_is_missing_is_refused():
    with pytest.raises(Refused, match="no keyword 'causal'"):
        verdicts(toys.plain, CAUSAL)


def test_verdict_describes_the_worst_element():
    (verdict,) = verdicts(toys.ignores_causal, CAUSAL)
    assert verdict.tensor == "O"
    assert len(verdict.where) == 4
    assert verdict.error == pytest.approx(abs(verdict.got - verdict.wanted))
    assert verdict.ratio == pytest.approx(verdict.error / verdict.budget)
    assert sum(verdict.parts.values()) == pytest.approx(verdict.budget)
