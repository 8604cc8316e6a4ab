"""Subjects are found by name, declare what they can do, and a wrong name is one clear sentence."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from harness.errors import CannotRun
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from harness.subject.loading import load
from harness.subject.shipped import shipped
from strategies import AttentionCase, Features, Geometry, Limits
from tests.harness import toys


def declared(**declaration):
    def attention(q, k, v, causal=False, config=None):
        return toys.right(q, k, v, causal)

    attention.__flashattest__ = declaration
    return describe(attention)


def drawn(subject, count=150):
    cases = []

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=subject.cases())
    def keep(case):
        cases.append(case)

    keep()
    return cases


def test_keywords_come_from_the_signature():
    assert describe(toys.right).keywords == {"causal", "scale", "seqlens_k", "return_lse"}
    assert describe(toys.plain).keywords == frozenset()


def test_causal_alone_means_upper_left():
    assert {case.features.causal for case in drawn(describe(toys.ignores_causal))} == {False, True}


def test_declared_alignments_are_drawn():
    subject = declared(alignments=("lower_right",))
    assert {case.features.causal for case in drawn(subject)} == {False, "lower_right"}


def test_declared_limits_are_kept():
    subject = declared(dtypes=["fp16"], max_head_dim=8, gqa=False, layouts=["contiguous"], configs=["64x64"])
    cases = drawn(subject)
    assert {case.dtype for case in cases} == {"fp16"}
    assert max(case.geometry.d for case in cases) <= 8
    assert all(case.geometry.group == 1 for case in cases)
    assert {case.q.layout for case in cases} == {"contiguous"}
    assert {case.features.config for case in cases} == {None, "64x64"}


def test_declared_facts_of_a_case_are_kept():
    subject = declared(self_attention=True, Nk_multiple_of=16, min_head_dim=8, max_head_dim=16, dO_layouts=["bshd"])
    assert subject.limits == Limits(self_attention=True, Nk_multiple_of=16, dO_layouts=("bshd",))
    assert subject.head_dims == tuple(range(8, 17))
    assert all(map(subject.takes, drawn(subject)))
    assert not subject.takes(AttentionCase(Geometry(Nq=1, Nk=16)))


@pytest.mark.parametrize(
    ("declaration", "sentence"),
    [
        ({"Nq_multiple_of": 0}, "Nq_multiple_of must be a whole number"),
        ({"Nq_multiple_of": 16, "max_Nq": 8}, "max_Nq must be 16 or more, not 8"),
        ({"positive_scale": "yes"}, "positive_scale must be True or False"),
        ({"dO_layouts": ["dense"]}, "layout of dO must be one of"),
    ],
)
def test_a_limit_that_cannot_be_is_an_error(declaration, sentence):
    with pytest.raises(CannotRun, match=sentence):
        declared(**declaration)


def test_a_declared_tolerance_is_part_of_every_budget():
    case = AttentionCase(Geometry(Nq=2, Nk=3, d=4))
    tried = [attempt(declared(atol=atol), case, "cpu") for atol in (0.0, 0.25)]
    bare, wide = (each.judgement.budget("O") for each in tried)
    assert torch.allclose(wide, bare + 0.25)
    assert tried[1].judgement.parts("O", (0, 0, 0, 0))["declared tolerance"] == 0.25
    assert "declared tolerance" not in tried[0].judgement.parts("O", (0, 0, 0, 0))
    with pytest.raises(CannotRun, match="atol=-1"):
        declared(atol=-1)


def test_unknown_declaration_is_an_error():
    with pytest.raises(CannotRun, match="declares 'dtype'"):
        declared(dtype="fp16")


def test_defaults_are_left_out_of_the_call():
    subject = describe(toys.right)
    assert subject.arguments(Features(), {}) == {}
    asked = Features(causal=True, scale=0.0, return_lse=True)
    assert subject.arguments(asked, {}) == {"causal": True, "scale": 0.0, "return_lse": True}


def test_lengths_are_a_keyword_too():
    case = AttentionCase(Geometry(Nk=2), features=Features(seqlens_k=(1,)))
    assert describe(toys.plain).lacks(case.features) == "seqlens_k"
    assert describe(toys.right).lacks(case.features) is None


def test_a_file_is_a_subject(tmp_path):
    (tmp_path / "mine.py").write_text("def attention(q, k, v):\n    return q\n")
    assert load(f"{tmp_path}/mine.py:attention").function(1, 2, 3) == 1


def test_names_that_ship():
    assert "sdpa" in shipped()
    assert load("sdpa").keywords == {"causal", "scale"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nonsense", "A subject is package.module:function"),
        ("no.such.module:f", "cannot be imported"),
        ("missing.py:f", "does not exist"),
        ("harness.subject.loading:nothing", "has no function 'nothing'"),
        ("harness.subject.loading:DEFAULT", "has no function 'DEFAULT'"),
    ],
)
def test_wrong_names(name, sentence):
    with pytest.raises(CannotRun, match=sentence):
        load(name)


def test_refuses_takes_other_exceptions():
    subject = describe(toys.plain, refuses="head dim .* not supported")
    assert subject.is_refusal(RuntimeError("head dim 3 not supported"))
    assert not subject.is_refusal(RuntimeError("head dim 3 is odd"))
    assert subject.is_refusal(NotImplementedError())
