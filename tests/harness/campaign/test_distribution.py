"""Error/budget is counted in fixed bins, by class, and cheaply."""

import json
import math

import pytest

from harness.campaign.distribution import BINS, Distribution, bin_of
from strategies import AttentionCase, Features


@pytest.mark.parametrize(
    ("ratio", "name"),
    [
        (0.0, "zero"),
        (0.3, "-1"),
        (0.5, "-1"),
        (1.0, "0"),
        (1.001, "1"),
        (2.0, "1"),
        (1e-30, "-12"),
        (1e30, "24"),
        (math.inf, "inf"),
        (math.nan, "inf"),
    ],
)
def test_bins(ratio, name):
    assert bin_of(ratio) == name
    assert name in BINS


def test_a_case_counts_under_each_of_its_classes():
    spread = Distribution()
    spread.add(AttentionCase(dtype="fp16", features=Features(causal=True)), 0.7)
    told = spread.to_json()
    assert told["dtype"] == {"fp16": {"0": 1}}
    assert told["causal"] == {"upper-left": {"0": 1}}


def test_no_case_no_axis():
    assert Distribution().to_json() == {}


def test_two_accounts_add_up():
    whole, part = Distribution(), Distribution()
    for spread in (whole, part):
        spread.add(AttentionCase(), 0.7)
    whole.take(part)
    assert whole.to_json()["dtype"] == {"fp32": {"0": 2}}
    assert part.to_json()["dtype"] == {"fp32": {"0": 1}}


def test_json_holds_plain_values():
    spread = Distribution()
    spread.add(AttentionCase(), math.inf)
    assert json.loads(json.dumps(spread.to_json())) == spread.to_json()
