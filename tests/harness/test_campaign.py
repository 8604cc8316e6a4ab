"""A campaign finds faults, keeps them apart, shrinks each, and says nothing of a right subject."""

import itertools

from harness.campaign import Campaign
from harness.subject import describe
from strategies import AttentionCase, Features, Geometry

from . import toys


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


def test_shrinks_a_wrong_value_and_keeps_the_worst_case_beside_it():
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
