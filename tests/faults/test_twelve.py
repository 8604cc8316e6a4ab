"""Twelve reported faults, planted in our kernel's source: a campaign of few cases finds each, and shrinks it."""

import pytest

from harness.campaign.campaign import Campaign
from harness.recall.faults import FAULTS
from harness.running.devices import prepare

TWELVE = [
    "causal-top-left",
    "empty-row-nan",
    "gqa-modulo",
    "hd-not-x16-silent",
    "kv-strides-swapped",
    "lse-base-mismatch",
    "nan-in-masked-key",
    "no-previous-max",
    "noncausal-tail-denominator",
    "scale-zero-is-default",
    "upper-bound-bm-gt-bn",
    "zero-len-row-not-written",
]
CASES = 40
"""Of a campaign, which shrinks within them."""
SEEDS = 20
"""Campaigns at most: the slowest of the twelve takes 3."""
TILE = 64
"""The tile of the interpreter: no shrunk case needs more than two of them."""


def first_finding(subject):
    for seed in range(SEEDS):
        if found := Campaign(subject, "cpu", seed, seconds=None, cases=CASES).run().findings:
            return next(iter(found.values()))
    return None


@pytest.mark.parametrize("name", TWELVE)
def test_is_found_and_shrunk(name):
    prepare("cpu")
    fault = FAULTS[name]
    found = first_finding(fault.subject())
    assert found is not None
    assert found.verdict.kind in fault.expects
    g = found.shrunk.geometry
    assert max(g.Nq, g.Nk) <= 2 * TILE
    assert g.B == 1 or g.B == fault.witness.geometry.B
