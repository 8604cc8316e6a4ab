"""Adds the votes of the oracles to a failure, so that the odd one out is named."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from oracles import vote


def with_votes(attempt: Attempt, verdict: Verdict) -> Verdict:
    """Return the verdict with every oracle's vote on its tensor, and the odd one out."""
    if verdict.tensor is None:
        return verdict
    votes = {"subject": f"off by {verdict.ratio:.3g} x the budget"}
    dissent = []
    # Some oracles run only on the subject's device.
    for name, found in vote(attempt.judgement, verdict.tensor, attempt.device).items():
        agrees = found.ok
        votes[name] = f"agrees with float64, error/budget {found.ratio:.2g}" if agrees else f"off by {found.ratio:.3g}"
        dissent += [] if agrees else [name]
    votes["odd one out"] = ", ".join(["the subject", *dissent])
    return replace(verdict, votes=votes)
