"""`attest` as other people's tests use it."""

import pytest
from hypothesis import given, settings

from harness import Failure, attest
from harness.errors import Refused
from strategies import AttentionCase, Features, Geometry, attention_cases
from tests.harness import toys

CAUSAL = AttentionCase(Geometry(Nq=2, Nk=3), features=Features(causal=True))


@settings(max_examples=50)
@given(case=attention_cases(causal=True, seqlens_k=False, max_length=40))
def test_the_one_liner(case):
    attest(toys.right, case)


@settings(max_examples=50)
@given(case=attention_cases(gradients="only", seqlens_k=False, causal=(False, True), max_length=40))
def test_the_one_liner_of_gradients(case):
    attest(toys.right, case)


def test_a_wrong_gradient_is_an_assertion_too():
    with pytest.raises(Failure) as caught:
        attest(toys.doubles_dk, CAUSAL.replace(operation="forward_backward"))
    assert type(caught.value).__name__ == "WrongGradient"
    assert "dK[" in str(caught.value)


def test_a_fault_is_an_assertion_that_tells_the_story():
    with pytest.raises(Failure) as caught:
        attest(toys.ignores_causal, CAUSAL)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.verdict.kind == "wrong_values"
    assert "odd one out: the subject" in str(caught.value)


def test_each_kind_is_an_exception_of_its_own():
    with pytest.raises(Failure) as caught:
        attest(toys.returns_fp32, CAUSAL.replace(dtype="fp16", features=Features()))
    assert type(caught.value).__name__ == "WrongShapeOrDtype"


def test_what_is_not_supported_is_rejected_inside_hypothesis():
    ran = []

    @settings(max_examples=20)
    @given(case=attention_cases(max_length=8))
    def refuses(case):
        attest(toys.refuses_bf16, case.replace(features=Features(), past_end="values"))
        ran.append(case.dtype)

    refuses()
    assert set(ran) == {"fp32", "fp16"}


def test_and_raises_outside():
    with pytest.raises(Refused, match="no keyword 'causal'"):
        attest(toys.plain, CAUSAL)
