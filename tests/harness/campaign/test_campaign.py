"""A campaign finds faults, separates them, shrinks each, and reports none for a right subject."""

import itertools
import time
from dataclasses import replace

import pytest
import torch

from harness.campaign.campaign import (
    BORDERLINE_SECONDS,
    LEAST_SHRINK_SECONDS,
    WOULD_HANG,
    Campaign,
    database_folder,
    shared_database,
)
from harness.campaign.cause import MOST_CAUSES, is_explained, needs, superseded
from harness.campaign.finding import Finding
from harness.campaign.opening import tour
from harness.judging.verdict import Verdict
from harness.subject.declaration import describe
from harness.workers import Apart, WorkerLimits
from strategies import AttentionCase, Features, Geometry, TensorSpec
from strategies.case import DTYPES
from strategies.layouts import LAYOUTS
from tests.harness import toys


@pytest.fixture(autouse=True)
def _short_shrinking(monkeypatch):
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 3.0)


def campaign(function, cases=200, seed=0):
    return Campaign(describe(function), "cpu", seed, seconds=None, cases=cases).run()


def only(function, **arguments):
    (finding,) = campaign(function, **arguments).findings.values()
    return finding


def test_right_subject_has_no_failure():
    done = campaign(toys.right)
    assert done.findings == {}
    assert done.tally.cases >= 200
    assert 0 < done.tally.worst < 1


def test_shrinks_to_the_smallest_case():
    found = only(toys.raises_on_long_keys)
    assert found.verdict.kind == "raised"
    assert found.shrunk == AttentionCase(Geometry(Nk=65))


def test_shrinks_a_wrong_value_and_keeps_the_worst_case_too():
    found = only(toys.ignores_causal)
    g = found.shrunk.geometry
    assert (g.B, g.Hq, g.Hk, g.Nq) == (1, 1, 1, 1)
    assert g.Nk <= 3
    assert found.shrunk.features == Features(causal=True)
    assert found.worst_ratio >= found.verdict.ratio > 1


def test_two_faults_do_not_mask_one_another():
    def both(q, k, v, causal=False, return_lse=False):
        O = toys.ignores_causal(q, k, v, causal)
        return (O, toys.lse_in_base_2(q, k, v, True)[1]) if return_lse else O

    assert {check for _, check in campaign(both, cases=400).findings} == {"values", "lse"}


def test_a_fault_that_comes_and_goes_is_not_repeatable():
    calls = itertools.count()

    def now_and_then(q, k, v):
        return toys.right(q, k, v) + (next(calls) % 7 == 6)

    found = only(now_and_then, cases=50)
    assert found.verdict.kind == "not_repeatable"
    assert found.rate < 1
    assert "reruns" in found.verdict.sentence


def test_refusals_are_counted_with_their_reason():
    tally = campaign(toys.refuses_bf16, cases=60).tally
    assert tally.refused["NotImplementedError: bf16 is not supported"] > 0


def test_same_seed_draws_the_same_cases():
    seen = []

    def spy(q, k, v, causal=False):
        seen.append((q.shape, q.dtype, causal))
        return toys.right(q, k, v, causal)

    campaign(spy, cases=30, seed=5)
    first, seen[:] = list(seen), []
    campaign(spy, cases=30, seed=5)
    assert seen == first


def test_features_without_a_keyword_are_never_asked_for():
    hits = campaign(toys.plain, cases=50).tally.coverage.hits
    assert set(hits["causal"]) == {"no"}
    assert set(hits["seqlens_k"]) == {"none given"}


def test_ctrl_c_loses_nothing():
    def interrupted(q, k, v):
        if k.shape[2] > 20:
            raise KeyboardInterrupt
        return toys.right(q, k, v)

    assert campaign(interrupted, cases=100).tally.cases > 0


def test_ctrl_c_at_two_places_of_a_round_is_one_ctrl_c():
    def interrupt(campaign):
        if campaign.is_shrinking:
            raise KeyboardInterrupt if campaign.tally.cases % 2 else KeyboardInterrupt()

    found = Campaign(describe(toys.ignores_causal), "cpu", 0, seconds=None, cases=60).run(interrupt).findings
    assert ("wrong_values", "values") in found


def remembering(key):
    """A right function that keeps, for each key, whether the first call was causal."""
    kept = {}

    def attention(q, k, v, causal=False):
        return toys.right(q, k, v, kept.setdefault(key(q, k), causal))

    return attention


@pytest.mark.parametrize("key", [lambda q, k: (q.shape, k.shape), lambda q, k: q.shape[3]], ids=["shapes", "d"])
def test_what_a_subject_keeps_of_earlier_calls_is_history_dependent(key):
    found = only(remembering(key), cases=300)
    assert found.verdict.kind == "history_dependent"
    assert found.shrunk.history == ("other_causal",)
    assert "other_causal" in found.verdict.sentence


def test_a_wrong_call_after_another_shrinks_with_its_call():
    last = []

    def leaves_traces(q, k, v):
        follows, last[:] = bool(last) and last[0] > k.shape[2], [k.shape[2]]
        return toys.right(q, k, v) + follows

    kinds = {finding.verdict.kind for finding in campaign(leaves_traces, cases=300).findings.values()}
    assert "history_dependent" in kinds


def test_relations_do_not_repeat_what_a_check_has_found():
    def keys_lost_where_many(q, k, v):
        return toys.right(q, k[:, :, :64], v[:, :, :64])

    found = campaign(keys_lost_where_many, cases=200).findings
    assert ("wrong_values", "values") in found
    assert not [check for kind, check in found if kind == "wrong_values" and check != "values"]


def test_a_kept_output_buffer_is_found():
    kept = {}

    def one_buffer(q, k, v):
        return kept.setdefault((q.shape, q.dtype), torch.empty_like(q)).copy_(toys.right(q, k, v))

    found = only(one_buffer, cases=200)
    assert (found.verdict.kind, found.verdict.check) == ("output_aliased", "first_output_kept")
    assert found.shrunk == AttentionCase()


def test_given_cases_come_before_any_drawn_one():
    seen = []

    def spy(q, k, v):
        seen.append(k.shape[2])
        return toys.right(q, k, v)

    given = [AttentionCase(Geometry(Nk=n)) for n in (3, 17, 5)]
    Campaign(describe(spy), "cpu", 0, seconds=None, cases=3, before=given).run()
    assert seen[0] == 3
    assert {17, 5} <= set(seen)


def test_what_was_shrunk_is_tried_first_the_next_time(tmp_path):
    def first(subject, seed):
        database = shared_database(database_folder(tmp_path, subject.__name__, "cpu"))
        done = Campaign(describe(subject), "cpu", seed, seconds=None, cases=100, database=database).run()
        return [found.cases_to_first for found in done.findings.values()]

    assert first(toys.raises_on_long_keys, seed=0) > [1]
    assert first(toys.right, seed=0) == []
    assert first(toys.raises_on_long_keys, seed=1) == [1]


def test_given_cases_that_there_is_no_time_for_are_not_asked_for():
    given = iter([AttentionCase()] * 3)
    Campaign(describe(toys.right), "cpu", 0, seconds=None, cases=2, before=given).run()
    assert len(list(given)) == 1


# --- causes


def test_causes_of_one_symptom_are_told_apart():
    def two(q, k, v, scale=None):
        O = toys.right(q, k, v, scale=scale)
        return O * torch.nan if k.shape[2] == 0 or (scale is not None and scale < 0) else O

    done = Campaign(describe(two), "cpu", 0, seconds=None, cases=120, opens=True).run()
    assert {fault[:2] for fault in done.findings} == {("not_finite", "values")}
    needed = [needs(found.shrunk) for found in done.findings.values()]
    assert sorted(map(sorted, needed)) == [["no key"], ["scale negative"]]


def test_exceptions_of_two_lines_are_two_causes():
    def two(q, k, v):
        assert k.shape[2] < 40
        assert q.dtype != torch.bfloat16
        return toys.right(q, k, v)

    found = campaign(two, cases=150).findings.values()
    assert sorted(each.shrunk.dtype for each in found) == ["bf16", "fp32"]


def finding(case, **changes):
    verdict = Verdict("not_finite", "values", "It is nan.")
    return replace(Finding(verdict, case, case, case, 2.0, 1, 0.1), **changes)


def test_a_cause_explains_what_has_all_that_it_needs():
    known = {("not_finite", "values"): finding(AttentionCase(features=Features(causal=True)))}
    verdict = Verdict("not_finite", "values", "It is nan.")
    causal = AttentionCase(Geometry(Nq=5, Nk=70), "bf16", Features(causal=True, scale=1.0))
    assert is_explained(known, causal, verdict)
    assert not is_explained(known, AttentionCase(Geometry(Nq=5, Nk=70)), verdict)
    assert not is_explained(known, causal, Verdict("wrong_values", "values", "It is 2."))


def test_a_simpler_case_takes_the_place_of_the_one_that_it_explains():
    longer = {("not_finite", "values"): finding(AttentionCase(Geometry(Nk=17), "bf16"))}
    assert superseded(longer, ("not_finite", "values", "2"), finding(AttentionCase(Geometry(Nk=17))))


def test_a_symptom_has_only_so_many_causes():
    many = {("not_finite", "values", str(n)): finding(AttentionCase(Geometry(Nk=65))) for n in range(MOST_CAUSES)}
    assert is_explained(many, AttentionCase(), Verdict("not_finite", "values", "It is nan."))


# --- the opening, and when a campaign stops


def test_a_fault_of_a_default_case_is_found_in_the_opening_and_needs_one_part(monkeypatch):
    monkeypatch.setattr("harness.campaign.opening.BOX_CASES", 20)

    def strided(q, k, v):
        return toys.right(q, k, v) + (k.stride(-1) != 1)

    done = Campaign(describe(strided), "cpu", 0, seconds=None, opens=True, max_failures=1).run()
    (found,) = done.findings.values()
    assert (found.shrunk.k.layout, found.shrunk.q, found.shrunk.dtype) == ("column_major", TensorSpec(), "fp32")
    assert done.tally.cases < 100
    assert not found.cut_short


def test_the_tour_holds_what_the_subject_takes():
    cases = list(tour(describe(toys.right)))
    assert {case.k.layout for case in cases} == set(LAYOUTS)
    assert {case.dtype for case in cases} == set(DTYPES)
    assert {name for case in cases for name in case.features.asked()} == describe(toys.right).keywords
    plain = list(tour(describe(toys.plain)))
    assert {name for case in plain for name in case.features.asked()} == set()


def test_shrinking_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 0.0)
    found = only(toys.ignores_causal, cases=60)
    assert (found.cut_short, found.is_simple) == (True, False)


def test_shrinking_ends_with_the_campaign_and_early_near_the_threshold():
    running = Campaign(describe(toys.right), "cpu", 0, seconds=60.0)
    running.tally.started -= 59
    far, near = (Verdict("wrong_values", "values", "It is 2.", ratio=ratio) for ratio in (9.0, 1.1))
    assert running._shrink_seconds(far) == LEAST_SHRINK_SECONDS
    running.seconds = None
    assert running._shrink_seconds(near) == BORDERLINE_SECONDS < 30
    running._examiner.close()


def test_a_hang_is_met_once(monkeypatch):
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 5.0)

    def hangs(q, k, v, causal=False):
        if causal:
            time.sleep(60)
        return toys.right(q, k, v)

    apart = Apart(lambda: describe(hangs), "cpu", WorkerLimits(seconds=1.0))
    done = Campaign(apart.subject, "cpu", 0, seconds=None, cases=30, examiner=apart).run()
    (found,) = done.findings.values()
    assert (found.verdict.kind, found.shrunk.features) == ("timed_out", Features(causal=True))
    assert done.tally.refused[WOULD_HANG] > 0
