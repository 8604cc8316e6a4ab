"""Lengths are cut to the edges of tiles while the case still fails."""

from harness.campaign.shorten import shorten, shorter_cases
from harness.subject.declaration import describe
from strategies import AttentionCase, Features, Geometry, TensorSpec
from tests.harness import toys


def test_stops_at_the_shortest_that_fails():
    case = AttentionCase(Geometry(Nq=140, Nk=257))
    assert shorten(case, lambda c: c.geometry.Nk > 64) == AttentionCase(Geometry(Nq=1, Nk=65))


def test_leaves_alone_what_no_shorter_case_shows():
    case = AttentionCase(Geometry(Nk=129))
    assert shorten(case, lambda c: False) == case


def test_lengths_are_cut_with_the_keys():
    case = AttentionCase(Geometry(B=2, Nk=40), features=Features(seqlens_k=(40, 7)))
    assert {c.features.seqlens_k for c in shorter_cases(case) if c.geometry.Nk == 16} == {(16, 7)}


def test_what_a_subject_does_not_take_is_not_tried():
    def square(q, k, v):
        return q

    square.__flashattest__ = {"self_attention": True, "dtypes": ["bf16"]}
    case = AttentionCase(Geometry(B=2, Hq=2, Hk=2, Nq=70, Nk=70, d=16), "bf16")
    assert shorten(case, lambda c: c.geometry.Nk > 16, describe(square)) == AttentionCase(
        Geometry(Nq=17, Nk=17), "bf16"
    )


def test_every_part_that_is_not_needed_takes_its_default():
    features = Features(causal=True, scale=-1.0, seqlens_k=(0, 40))
    case = AttentionCase(Geometry(B=2, Hq=2, Nq=0, Nk=40, d=40), "bf16", features, k=TensorSpec("large", 3, "bshd"))
    least = AttentionCase(features=Features(scale=-1.0), k=TensorSpec(seed=3))
    assert shorten(case, lambda c: (c.features.scale or 0) < 0, describe(toys.right)) == least
