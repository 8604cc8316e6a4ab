"""The small box holds every small problem, a right subject passes all of it, and a campaign can begin with it."""

import itertools

from harness.campaign.campaign import Campaign
from harness.campaign.small_box import sample, small_box
from harness.judging.judge import judge
from harness.running.attempt import attempt
from harness.subject.declaration import describe
from strategies.case import DTYPES
from tests.harness import toys


def box(function):
    return list(small_box(describe(function)))


def test_holds_every_combination_once():
    cases = box(toys.right)
    found = {(c.geometry.Nq, c.geometry.Nk, c.geometry.d, c.features.causal, c.dtype) for c in cases}
    assert found == set(itertools.product(range(5), range(5), (1, 16), (False, True), DTYPES))
    assert {c.features.seqlens_k for c in cases if c.geometry.Nk == 2} == {None, (0,), (1,), (2,)}
    assert len(set(cases)) == len(cases)


def test_holds_nothing_that_the_subject_does_not_take():
    cases = box(toys.plain)
    assert {(c.features.causal, c.features.seqlens_k, c.features.return_lse) for c in cases} == {(False, None, False)}


def test_smallest_first():
    sizes = [max(c.geometry.Nq, c.geometry.Nk) for c in box(toys.right)]
    assert sizes == sorted(sizes)


def test_sample_is_a_part_of_the_box_in_its_order():
    subject = describe(toys.right)
    places = {case: i for i, case in enumerate(small_box(subject))}
    drawn = [places[case] for case in sample(subject, 100)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 100


def test_silent_on_right():
    subject = describe(toys.right)
    assert [v for case in sample(subject, 800) for v in judge(attempt(subject, case, "cpu"))] == []


def test_a_campaign_that_begins_with_it_keeps_the_smallest_case():
    def last_of_three_lost(q, k, v):
        return toys.right(q, k[:, :, :2], v[:, :, :2])

    subject = describe(last_of_three_lost)
    given = itertools.islice(small_box(subject), 300)
    done = Campaign(subject, "cpu", seed=0, seconds=None, cases=300, before=given).run()
    (finding,) = done.findings.values()
    assert (finding.shrunk.geometry.Nq, finding.shrunk.geometry.Nk) == (1, 3)
