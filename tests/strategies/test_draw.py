"""What is drawn: legal, narrowed as asked, spread over every axis, and shrunk to the smallest case."""

from collections import Counter
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, find, given, seed, settings

from strategies import AttentionCase, Features, Geometry, Limits, TensorSpec, attention_cases, calls_before
from strategies.case import DTYPES, NEEDS
from strategies.draw import GRADIENT_VALUES
from strategies.features import VARIATIONS
from strategies.features.causal import KINDS
from strategies.features.seqlens_k import PAST_END
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.values import FAMILIES

QUIET = settings(deadline=None, database=None, derandomize=False, suppress_health_check=list(HealthCheck))
DRAWS = 2000


def some(**narrower):
    """Two thousand cases, the same on each run."""
    cases = []

    @seed(1)
    @settings(QUIET, max_examples=DRAWS, phases=[Phase.generate])
    @given(case=attention_cases(**narrower))
    def draw(case):
        cases.append(case)

    draw()
    return cases


@pytest.fixture(scope="module")
def drawn():
    return some()


@pytest.fixture(scope="module")
def with_gradients():
    return some(gradients="only")


def share(cases, predicate):
    return sum(map(predicate, cases)) / len(cases)


def test_hardly_a_case_is_drawn_twice(drawn):
    assert len(set(drawn)) > 0.99 * DRAWS


# --- every axis occurs


def test_every_dtype_kind_and_fill_occurs(drawn):
    assert {case.dtype for case in drawn} == set(DTYPES)
    assert {case.features.causal for case in drawn} == set(KINDS)
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


SHAPES = {
    "decoding": (0.06, lambda case: 1 <= case.geometry.Nq <= 16 and case.geometry.Nk >= 256),
    "decoding with groups": (
        0.02,
        lambda case: 1 <= case.geometry.Nq <= 16 and case.geometry.Nk >= 256 and case.geometry.group >= 4,
    ),
    "1,024 keys": (0.005, lambda case: case.geometry.Nk >= 1024),
    "4,096 keys": (0.0004, lambda case: case.geometry.Nk >= 4096),
    "an odd number of query tiles": (0.03, lambda case: -(-case.geometry.Nq // 64) in (3, 5, 7)),
    "a batch of 4 or more than 5": (0.02, lambda case: case.geometry.B == 4 or case.geometry.B > 5),
    "large heads": (
        0.0004,
        lambda case: case.geometry.Nq > 256 and case.geometry.d >= 128 and case.geometry.Hk == case.geometry.Hq > 1,
    ),
    "expanded keys, one past a tile": (
        0.008,
        lambda case: (
            case.k.layout.startswith("expanded")
            and case.geometry.Hk > 1
            and case.geometry.Nk % 16 == 1 < case.geometry.Nk
        ),
    ),
    "scores of a finite mask": (0.02, lambda case: case.q.values == case.k.values == "sunken"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_kernels_treat_apart_occur(drawn, name):
    least, predicate = SHAPES[name]
    assert share(drawn, predicate) >= least


def test_head_dims_above_256_occur_where_they_are_asked_for():
    dims = [case.geometry.d for case in some(head_dims=range(1, 577), history=False)]
    assert max(dims) > 512
    assert 0.02 < share(dims, lambda d: d > 256) < 0.6


def test_lengths_of_keys_are_none_some_and_all(drawn):
    lengths = [(n, case.geometry.Nk) for case in drawn for n in case.features.seqlens_k or ()]
    assert share(drawn, lambda case: case.features.seqlens_k is None) > 0.3
    assert all(share(lengths, kind) > 0.02 for kind in (lambda n: n[0] == 0, lambda n: 0 < n[0] < n[1]))
    assert any(n == Nk > 0 for n, Nk in lengths)


def test_rows_that_see_no_key_occur(drawn):
    lower_right = [case for case in drawn if case.features.causal == "lower_right"]
    assert share(lower_right, lambda case: case.geometry.Nq > min(case.lengths) > 0) > 0.05


# --- gradients


def test_gradients_are_asked_for_in_none_half_or_all(drawn, with_gradients):
    asks = [AttentionCase.has_gradients.fget]
    assert not any(map(*asks, drawn))
    assert all(map(*asks, with_gradients))
    assert 0.4 < share(some(gradients=True), *asks) < 0.6


def test_every_family_and_layout_of_dO_and_dLSE_occurs(with_gradients):
    for specs in ([case.dO for case in with_gradients], [case.dLSE for case in with_gradients if case.dLSE]):
        assert {spec.values for spec in specs} == set(GRADIENT_VALUES)
        assert {spec.layout for spec in specs} == set(GRADIENT_LAYOUTS)
        assert share(specs, lambda spec: spec.values == "normal") > 1 / 3


def test_a_gradient_comes_through_lse_where_lse_is_asked_for_and_not_always(with_gradients):
    asked = [case for case in with_gradients if case.features.return_lse]
    assert 0.3 < share(asked, lambda case: case.dLSE is not None) < 0.7


def test_all_inputs_mostly_need_a_gradient_and_sometimes_some(with_gradients):
    needs = Counter(case.needs_grad for case in with_gradients)
    assert set(needs) == set(NEEDS)
    assert needs["q", "k", "v"] > DRAWS / 3


def test_a_case_of_gradients_is_a_third_as_large(drawn, with_gradients):
    assert max(case.work for case in drawn) > 1 << 16
    assert max(case.work for case in with_gradients) <= (1 << 17) // 3


def test_dO_keeps_to_the_layouts_and_families_that_are_asked_for():
    @settings(QUIET, max_examples=50)
    @given(case=attention_cases(gradients="only", layouts=["bshd"], families=["rising", "clusters"]))
    def check(case):
        assert case.dO.layout == "bshd"
        assert case.dO.values in ("rising", "clusters")

    check()


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
    ({"limits": Limits(self_attention=True)}, lambda case: case.geometry.Nq == case.geometry.Nk),
    (
        {"limits": Limits(Nq_multiple_of=16, Nk_multiple_of=64)},
        lambda case: case.geometry.Nq % 16 == case.geometry.Nk % 64 == 0,
    ),
    (
        {"limits": Limits(self_attention=True, Nq_multiple_of=16, Nk_multiple_of=24)},
        lambda case: case.geometry.Nq == case.geometry.Nk and case.geometry.Nk % 48 == 0,
    ),
    ({"limits": Limits(max_Nq=3)}, lambda case: case.geometry.Nq <= 3),
    ({"limits": Limits(min_length=2)}, lambda case: min(case.geometry.Nq, case.geometry.Nk) >= 2),
    ({"limits": Limits(positive_scale=True)}, lambda case: case.features.scale is None or case.features.scale > 0),
    ({"limits": Limits(unit_last_stride=True)}, lambda case: "column_major" not in (case.q.layout, case.k.layout)),
    ({"limits": Limits(same_layout=True)}, lambda case: case.q.layout == case.k.layout == case.v.layout),
    (
        {"limits": Limits(dO_layouts=("bshd", "contiguous")), "gradients": "only"},
        lambda case: case.dO.layout in ("bshd", "contiguous"),
    ),
    ({"limits": Limits(dLSE=False), "gradients": "only"}, lambda case: case.dLSE is None),
]
CONFINED = [(narrower["limits"], narrower) for narrower, _ in NARROW if "limits" in narrower]


@pytest.mark.parametrize(("narrower", "holds"), NARROW, ids=[str(narrower) for narrower, _ in NARROW])
def test_every_argument_narrows(narrower, holds):
    @settings(QUIET, max_examples=100)
    @given(case=attention_cases(**narrower))
    def check(case):
        assert holds(case)

    check()


@pytest.mark.parametrize(("limits", "narrower"), CONFINED, ids=[str(limits) for limits, _ in CONFINED])
def test_every_case_keeps_its_limits_and_so_do_the_calls_before_it(limits, narrower):
    @settings(QUIET, max_examples=100)
    @given(case=attention_cases(**narrower))
    def check(case):
        assert not any(map(limits.broken_by, (case, *calls_before(case))))

    check()


def test_what_is_not_narrowed_is_not_all_alike(drawn, with_gradients):
    always = {"configs": ("a", "b")}
    assert not any(all(map(holds, drawn + with_gradients)) for narrower, holds in NARROW if narrower != always)


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
        ({"gradients": "some"}, "gradients must be False, True or 'only', not 'some'."),
        ({"layouts": ("expanded_all",)}, "layouts must name one for q, k and v at least."),
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
    (lambda case: case.geometry.Nk >= 1024, AttentionCase(Geometry(Nk=1024))),
    (lambda case: case.geometry.B >= 4, AttentionCase(Geometry(B=4))),
    (
        lambda case: case.geometry.group >= 4 and case.geometry.Nk >= 300,
        AttentionCase(Geometry(Hq=4, Nk=300)),
    ),
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


BACKWARD = AttentionCase(operation="forward_backward")
MINIMAL_OF_GRADIENTS = [
    (lambda case: True, AttentionCase()),
    (lambda case: case.geometry.Nk > 16, AttentionCase(Geometry(Nk=17))),
    (lambda case: case.has_gradients, BACKWARD),
    (lambda case: case.has_gradients and case.geometry.d > 16, BACKWARD.replace(geometry=Geometry(d=17))),
    (lambda case: case.dO.values == "one_hot", BACKWARD.replace(dO=TensorSpec("one_hot"))),
    (lambda case: case.dO.layout == "expanded_all", BACKWARD.replace(dO=TensorSpec(layout="expanded_all"))),
    (lambda case: case.needs_grad == ("k",), BACKWARD.replace(needs_grad=("k",))),
    (lambda case: case.dLSE, BACKWARD.replace(features=Features(return_lse=True), dLSE=TensorSpec())),
]


@pytest.mark.parametrize(("predicate", "smallest"), MINIMAL_OF_GRADIENTS, ids=range(len(MINIMAL_OF_GRADIENTS)))
def test_a_failure_of_gradients_shrinks_to_the_smallest_case(predicate, smallest):
    small = settings(QUIET, max_examples=DRAWS)
    assert find(attention_cases(gradients=True), predicate, settings=small, random=Random(1)) == smallest


# --- what a stranger writes


@given(case=attention_cases(causal=True))
@settings(max_examples=5)
def test_the_one_liner_of_the_manual(case):
    assert case.features.causal is True
