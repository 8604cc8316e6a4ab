"""What is drawn: legal, narrowed as asked, spread over every axis, and shrunk to the smallest case."""

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings

from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases
from strategies.case import CAUSAL_KINDS, DTYPES, PAST_END, VARIATIONS
from strategies.layouts import LAYOUTS
from strategies.values import FAMILIES

QUIET = settings(deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck))
DRAWS = 2000


@pytest.fixture(scope="module")
def drawn():
    """Two thousand cases, the same on each run."""
    cases = []

    @seed(1)
    @settings(QUIET, max_examples=DRAWS, phases=[Phase.generate])
    @given(case=attention_cases())
    def draw(case):
        cases.append(case)

    draw()
    return cases


def share(cases, predicate):
    return sum(map(predicate, cases)) / len(cases)


def test_hardly_a_case_is_drawn_twice(drawn):
    assert len(set(drawn)) > 0.99 * DRAWS


# --- every axis occurs


def test_every_dtype_kind_and_fill_occurs(drawn):
    assert {case.dtype for case in drawn} == set(DTYPES)
    assert {case.features.causal for case in drawn} == set(CAUSAL_KINDS)
    assert {case.past_end for case in drawn} == set(PAST_END)
    assert {case.features.return_lse for case in drawn} == {False, True}
    assert {case.features.scale for case in drawn} == {None, 1.0, 0.05, 0.0, -0.25, -1.0}
    assert {name for case in drawn for name in case.history} == set(VARIATIONS)


@pytest.mark.parametrize("role", ["q", "k", "v"])
def test_every_family_and_layout_occurs_in_every_tensor(drawn, role):
    specs = [getattr(case, role) for case in drawn]
    assert {spec.values for spec in specs} == set(FAMILIES)
    assert {spec.layout for spec in specs} == set(LAYOUTS)


def test_queries_outnumber_keys_as_often_as_the_other_way(drawn):
    more = sum(case.geometry.Nq > case.geometry.Nk for case in drawn)
    fewer = sum(case.geometry.Nq < case.geometry.Nk for case in drawn)
    assert min(more, fewer) > 0.3 * DRAWS
    assert 2 / 3 < more / fewer < 3 / 2


@pytest.mark.parametrize("name", ["Nq", "Nk"])
def test_lengths_crowd_where_kernels_break(drawn, name):
    lengths = Counter(getattr(case.geometry, name) for case in drawn)
    assert all(lengths[n] > 10 for n in (0, 1, 2))
    assert all(lengths[edge] for tile in (16, 32, 64, 128) for edge in (tile - 1, tile, tile + 1))
    assert all(sum(lengths[n] for n in lengths if n % 64 == tail) > 20 for tail in (0, 1, 63))
    assert share(drawn, lambda case: getattr(case.geometry, name) <= 64) > 0.4


def test_the_tail_reaches_thousands(drawn):
    assert max(max(case.geometry.Nq, case.geometry.Nk) for case in drawn) > 2000


def test_sizes_that_change_the_code_occur(drawn):
    assert {1, 2, 3, 5} <= {case.geometry.B for case in drawn}
    assert {1, 2, 3, 4, 8} <= {case.geometry.group for case in drawn}
    dims = {case.geometry.d for case in drawn}
    assert {1, 16, 32, 64, 128, 256} <= dims
    assert any(d & (d - 1) for d in dims)


def test_lengths_of_keys_are_none_some_and_all(drawn):
    lengths = [(n, case.geometry.Nk) for case in drawn for n in case.features.seqlens_k or ()]
    assert share(drawn, lambda case: case.features.seqlens_k is None) > 0.3
    assert all(share(lengths, kind) > 0.02 for kind in (lambda n: n[0] == 0, lambda n: 0 < n[0] < n[1]))
    assert any(n == Nk > 0 for n, Nk in lengths)


def test_rows_that_see_no_key_occur(drawn):
    lower_right = [case for case in drawn if case.features.causal == "lower_right"]
    assert share(lower_right, lambda case: case.geometry.Nq > min(case.lengths) > 0) > 0.05


# --- narrowing


NARROW = [
    ({"dtypes": ("bf16", "fp16")}, lambda case: case.dtype in ("bf16", "fp16")),
    ({"causal": True}, lambda case: case.features.causal is True),
    ({"causal": (False, "lower_right")}, lambda case: case.features.causal in (False, "lower_right")),
    ({"seqlens_k": False}, lambda case: case.features.seqlens_k is None and case.past_end == "values"),
    ({"scale": False}, lambda case: case.features.scale is None),
    ({"return_lse": False}, lambda case: not case.features.return_lse),
    ({"gqa": False}, lambda case: case.geometry.group == 1),
    ({"history": False}, lambda case: case.history == ()),
    ({"configs": ("a", "b")}, lambda case: case.features.config in (None, "a", "b")),
    ({"head_dims": (64, 24)}, lambda case: case.geometry.d in (24, 64)),
    ({"layouts": ("bshd",)}, lambda case: {case.q.layout, case.k.layout, case.v.layout} == {"bshd"}),
    ({"families": ("tiny",)}, lambda case: {case.q.values, case.k.values, case.v.values} == {"tiny"}),
    ({"max_length": 20}, lambda case: max(case.geometry.Nq, case.geometry.Nk) <= 20),
    ({"max_work": 300}, lambda case: case.work <= 300),
    ({"max_length": 1, "max_work": 1}, lambda case: case.work <= 1),
]


@pytest.mark.parametrize(("narrower", "holds"), NARROW, ids=[str(narrower) for narrower, _ in NARROW])
def test_every_argument_narrows(narrower, holds):
    @settings(QUIET, max_examples=100)
    @given(case=attention_cases(**narrower))
    def check(case):
        assert holds(case)

    check()


def test_what_is_not_narrowed_is_not_all_alike(drawn):
    assert not any(all(map(holds, drawn)) for narrower, holds in NARROW if narrower != {"configs": ("a", "b")})


@pytest.mark.parametrize(
    ("narrower", "sentence"),
    [
        ({"dtypes": ("fp8",)}, "dtype must be one of"),
        ({"dtypes": ()}, "dtypes must name one dtype at least."),
        ({"layouts": ("sparse",)}, "layout must be one of"),
        ({"families": ("gaussian",)}, "value family must be one of"),
        ({"head_dims": ()}, "head_dims must hold one positive number at least."),
        ({"head_dims": (0, 8)}, "head_dims must hold one positive number at least."),
        ({"max_length": 0}, "max_length and max_work must be 1 or more."),
        ({"max_work": 0}, "max_length and max_work must be 1 or more."),
    ],
)
def test_a_bad_argument_is_refused_at_once(narrower, sentence):
    with pytest.raises(ValueError, match=sentence):
        attention_cases(**narrower)


# --- shrinking


def causal_over_two_tiles(case):
    sizes = case.geometry
    return case.features.causal is True and min(sizes.Nq, sizes.Nk) > 16 and case.dtype != "fp32"


MINIMAL = [
    (lambda case: True, AttentionCase()),
    (lambda case: case.geometry.Nk > 64, AttentionCase(Geometry(Nk=65))),
    (lambda case: case.geometry.Nq > case.geometry.Nk > 0, AttentionCase(Geometry(Nq=2))),
    (lambda case: case.geometry.group >= 3, AttentionCase(Geometry(Hq=3))),
    (lambda case: case.geometry.B >= 2, AttentionCase(Geometry(B=2))),
    (lambda case: case.geometry.d > 16, AttentionCase(Geometry(d=17))),
    (lambda case: case.dtype == "bf16", AttentionCase(dtype="bf16")),
    (lambda case: case.k.layout == "bshd", AttentionCase(k=TensorSpec(layout="bshd"))),
    (lambda case: case.v.values == "one_hot", AttentionCase(v=TensorSpec("one_hot"))),
    (lambda case: 0 in case.lengths and case.geometry.Nk, AttentionCase(features=Features(seqlens_k=(0,)))),
    (lambda case: case.past_end == "nan", AttentionCase(features=Features(seqlens_k=(1,)), past_end="nan")),
    (lambda case: case.scale < 0, AttentionCase(features=Features(scale=-0.25))),
    (lambda case: case.history, AttentionCase(history=("fewer_keys",))),
    (
        causal_over_two_tiles,
        AttentionCase(Geometry(Nq=17, Nk=17), dtype="fp16", features=Features(causal=True)),
    ),
]


@pytest.mark.parametrize(("predicate", "smallest"), MINIMAL, ids=[repr(smallest) for _, smallest in MINIMAL])
def test_a_failure_shrinks_to_the_smallest_case(predicate, smallest):
    assert (
        find(attention_cases(), predicate, settings=settings(QUIET, max_examples=DRAWS), random=Random(1)) == smallest
    )


# --- what a stranger writes


@given(case=attention_cases(causal=True))
@settings(max_examples=5)
def test_the_one_liner_of_the_manual(case):
    assert case.features.causal is True
