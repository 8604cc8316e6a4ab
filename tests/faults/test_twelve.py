"""Twelve reported faults, planted in our kernel's source: a campaign finds each within a minute, and shrinks it."""

import itertools
import time

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
SECONDS = 60.0
TILE = 64
"""The tile of the interpreter: no shrunk case needs more than two of them."""


def first_finding(subject):
    began = time.monotonic()
    for seed in itertools.count():
        done = Campaign(subject, "cpu", seed, seconds=SECONDS - (time.monotonic() - began), cases=40).run()
        if done.findings or time.monotonic() - began > SECONDS:
            return next(iter(done.findings.values()))


@pytest.mark.parametrize("name", TWELVE)
def test_is_found_and_shrunk(name):
    prepare("cpu")
    fault = FAULTS[name]
    found = first_finding(fault.subject())
    assert found.verdict.kind in fault.expects
    g = found.shrunk.geometry
    assert max(g.Nq, g.Nk) <= 2 * TILE
    assert g.B == 1 or g.B == fault.witness.geometry.B
