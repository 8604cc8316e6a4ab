"""Lengths are cut to the edges of tiles while the case still fails."""

from harness.campaign.shorten import shorten, shorter_cases
from strategies import AttentionCase, Features, Geometry


def test_stops_at_the_shortest_that_fails():
    case = AttentionCase(Geometry(Nq=140, Nk=257))
    assert shorten(case, lambda c: c.geometry.Nk > 64) == AttentionCase(Geometry(Nq=1, Nk=65))


def test_leaves_alone_what_no_shorter_case_shows():
    case = AttentionCase(Geometry(Nk=129))
    assert shorten(case, lambda c: False) == case


def test_lengths_are_cut_with_the_keys():
    case = AttentionCase(Geometry(B=2, Nk=40), features=Features(seqlens_k=(40, 7)))
    assert {c.features.seqlens_k for c in shorter_cases(case) if c.geometry.Nk == 16} == {(16, 7)}
