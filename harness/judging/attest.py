"""The one-liner for other people's tests: `attest(my_attention, case)`."""

from __future__ import annotations

import hypothesis

from harness.errors import Refused
from harness.judging.judge import judge
from harness.judging.story import story
from harness.judging.verdict import FAILURES
from harness.judging.votes import with_votes
from harness.running.attempt import attempt
from harness.running.devices import choose
from harness.subject.declaration import Attention, Subject, describe
from strategies import AttentionCase


def attest(function: Attention | Subject, case: AttentionCase, *, device: str | None = None) -> None:
    """Run an attention function on a case and compare the result with the oracles.

    Raises a Failure (an AssertionError, one subclass per kind) with a full report. A case that the function refuses
    (NotImplementedError, or a keyword that it does not have) is rejected inside a Hypothesis test, and raises Refused
    outside one. device: "cpu" or "cuda"; None means cuda if it is available.
    """
    subject = function if isinstance(function, Subject) else describe(function)
    try:
        tried = attempt(subject, case, choose(device))
    except Refused:
        if hypothesis.currently_in_test_context():
            hypothesis.reject()
        raise
    for verdict in judge(tried):
        voted = with_votes(tried, verdict)
        raise FAILURES[verdict.kind](voted, case, story(subject.name, case, voted))
