"""What a load masks without `other` is undefined, unless the subject says that it relies on 0."""

import os

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET=1 turns it on", allow_module_level=True)

from harness.errors import CannotRun
from harness.judging.attest import attest
from harness.judging.verdict import Failure
from harness.subject.declaration import describe
from strategies import AttentionCase, Geometry
from tests.harness import toys
from tests.harness.strangers import lanes

TAIL = AttentionCase(Geometry(Nk=17, d=4))


def test_a_masked_lane_that_is_used_shows():
    with pytest.raises(
        Failure, match=r"undefined_lanes.*It is right where lanes that tl\.load masks without `other` hold 0"
    ):
        attest(lanes.leaves_lanes, TAIL)


def test_a_masked_lane_that_is_not_there_does_not():
    attest(lanes.leaves_lanes, AttentionCase(Geometry(Nk=16, d=64)))


def test_lanes_hold_zero_where_the_subject_says_so():
    attest(lanes.says_so, TAIL)


def test_other_declarations_of_lanes_are_refused(monkeypatch):
    monkeypatch.setattr(toys.plain, "__flashattest__", {"masked_lanes": "nan"}, raising=False)
    with pytest.raises(CannotRun, match="undefined or zero"):
        describe(toys.plain)
