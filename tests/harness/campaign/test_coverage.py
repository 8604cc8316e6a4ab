"""Cases are counted under the classes that they fall into, and what was never hit is told."""

import pytest

from harness.campaign.coverage import Coverage, axes
from harness.judging.seen import seen_in
from harness.subject.declaration import describe
from oracles import float64
from strategies import AttentionCase, Features, Geometry, TensorSpec, build
from tests.harness import toys


def classes(axis, geometry, q="normal", k="normal", **features):
    case = AttentionCase(geometry, features=Features(**features), q=TensorSpec(q), k=TensorSpec(k))
    covered = Coverage()
    covered.add(case, seen_in(float64(build(case))))
    return set(covered.hits[axis])


@pytest.mark.parametrize(
    ("geometry", "features", "wanted"),
    [
        (Geometry(Nq=2, Nk=2), {}, {"every key"}),
        (Geometry(Nq=2, Nk=3), {"seqlens_k": (2,)}, {"end hidden"}),
        (Geometry(Nq=2, Nk=2), {"seqlens_k": (0,)}, {"no key"}),
        (Geometry(Nq=2), {"seqlens_k": (0,)}, {"no key"}),
        (Geometry(Nq=2, Nk=0), {}, {"no key"}),
        (Geometry(Nq=3, Nk=3), {"causal": True}, {"every key", "end hidden"}),
        (Geometry(Nq=2, Nk=3), {"causal": True}, {"end hidden"}),
        (Geometry(Nq=4, Nk=2), {"causal": "lower_right"}, {"every key", "end hidden", "no key"}),
        (Geometry(B=2, Nq=1, Nk=2), {"seqlens_k": (2, 1)}, {"every key", "end hidden"}),
        (Geometry(Nq=0, Nk=2), {}, set()),
    ],
)
def test_masked_rows(geometry, features, wanted):
    assert classes("masked rows", geometry, **features) == wanted


@pytest.mark.parametrize(
    ("features", "wanted"),
    [
        ({}, {"no row"}),
        ({"causal": "lower_right"}, {"some rows"}),
        ({"seqlens_k": (0, 2)}, {"all rows", "no row"}),
    ],
)
def test_empty_rows(features, wanted):
    assert classes("empty rows", Geometry(B=2, Nq=4, Nk=2), **features) == wanted


@pytest.mark.parametrize(
    ("Nk", "k", "wanted"),
    [
        (16, "rising", "one tile"),
        (64, "rising", "in every tile"),
        (64, "falling", "none"),
        (160, "normal", "in some tiles"),
    ],
)
def test_rescales_of_the_running_max(Nk, k, wanted):
    assert classes("rescales", Geometry(Nk=Nk, d=16), q="positive", k=k) == {wanted}


def test_integers_are_classed_as_triton_specialises_them():
    assert classes("specialised", Geometry(Nq=1, Nk=32, d=5)) == {"Nq 1", "Nk 16·n", "d other", "Hq 1"}


def test_key_tiles():
    assert classes("key tiles", Geometry(B=2, Nk=200), seqlens_k=(0, 130)) == {"0", "3 to 8"}


def test_pairs_of_classes():
    assert classes("Nq 1: group x Nk", Geometry(Hq=7, Nk=256)) == {"another group x to 1023"}
    assert classes("Nq 1: group x Nk", Geometry(Nq=2, Nk=256)) == set()
    assert classes("d x tail of Nk", Geometry(Nk=65, d=16)) == {"to 128, a power of 2 x 1"}
    keys = "layout of k x Hk x tail of Nk"
    assert classes(keys, Geometry(Hq=2, Hk=2, Nk=64)) == {"contiguous x some heads x none"}
    assert "expanded_heads x some heads x 1" in Coverage().missed(describe(toys.plain))[keys]


def test_nothing_is_missed_that_cannot_be_asked_for():
    missed = Coverage().missed(describe(toys.plain))
    assert "masked rows" in missed
    assert missed["masked rows"] == ["every key"]
    assert {axis.name for axis in axes()} >= set(missed)
