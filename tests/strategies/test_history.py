"""The calls before a case: each differs from it in one thing, and is a legal case."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, calls_before
from strategies.case import VARIATIONS

CASE = AttentionCase(Geometry(B=2, Nq=3, Nk=40), features=Features(True, 0.5, (40, 7)))
CHANGES = {
    "other_values": {role: TensorSpec(seed=1) for role in "qkv"},
    "other_causal": {"features": Features(False, 0.5, (40, 7))},
    "other_scale": {"features": Features(True, 1.0, (40, 7))},
    "other_dtype": {"dtype": "fp16"},
    "other_lengths": {"features": Features(True, 0.5, (39, 6))},
    "other_layout": {role: TensorSpec(layout="bshd") for role in "qkv"},
    "more_keys": {"geometry": Geometry(B=2, Nq=3, Nk=57)},
    "other_head_dim": {"geometry": Geometry(B=2, Nq=3, Nk=40, d=2)},
    "one_more_in_the_batch": {"geometry": Geometry(B=3, Nq=3, Nk=40), "features": Features(True, 0.5, (40, 7, 7))},
    "fewer_keys": {"geometry": Geometry(B=2, Nq=3, Nk=20), "features": Features(True, 0.5, (20, 7))},
}


def test_every_variation_is_tested_here():
    assert set(CHANGES) == set(VARIATIONS)


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_variation_changes_one_thing(name):
    assert calls_before(CASE.replace(history=(name,))) == (CASE.replace(**CHANGES[name]),)


def test_what_comes_back_varies_with_the_values_and_the_layout():
    features = Features(return_lse=True)
    case = AttentionCase(features=features, operation="forward_backward", dLSE=TensorSpec(), needs_grad=("q",))
    values, layout = calls_before(case.replace(history=("other_values", "other_layout")))
    assert values == case.replace(**{role: TensorSpec(seed=1) for role in ("q", "k", "v", "dO", "dLSE")})
    assert layout == case.replace(**{role: TensorSpec(layout="bshd") for role in ("q", "k", "v", "dO")})


def test_no_history_is_no_call():
    assert calls_before(CASE) == ()


def test_calls_come_oldest_first_and_bare():
    before = calls_before(CASE.replace(history=("other_dtype", "more_keys")))
    assert before == (CASE.replace(**CHANGES["other_dtype"]), CASE.replace(**CHANGES["more_keys"]))


@pytest.mark.parametrize("scale", [None, 0.0])
def test_other_scale_of_a_scale_that_cannot_double_is_1(scale):
    case = AttentionCase(features=Features(scale=scale), history=("other_scale",))
    assert calls_before(case)[0].scale == 1.0


def test_other_layout_of_what_is_not_dense_is_dense():
    case = AttentionCase(k=TensorSpec(layout="sliced"), history=("other_layout",))
    assert calls_before(case) == (AttentionCase(),)


@given(case=attention_cases(gradients=True), name=st.sampled_from(sorted(VARIATIONS)))
def test_every_call_before_a_drawn_case_is_legal(case, name):
    (before,) = calls_before(case.replace(history=(name,)))
    assert before.history == ()
    assume(name != "other_lengths" or any(case.features.seqlens_k or ()))
    assume(name != "fewer_keys" or case.geometry.Nk > 0)
    assume(name != "other_scale" or case.features.scale != 1.0 or before.scale == 2.0)
    assert before != case.replace(history=())
