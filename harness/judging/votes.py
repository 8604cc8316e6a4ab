"""How the oracles vote on a failure, so that the odd one out can be named."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.running.backward import INPUTS
from oracles import Comparison, vote


def with_votes(attempt: Attempt, verdict: Verdict) -> Verdict:
    """The verdict with every oracle's vote on the tensor that it speaks of, and who is the odd one out."""
    if verdict.tensor is None:
        return verdict
    votes = {"subject": f"off by {verdict.ratio:.3g} x the budget"}
    dissent = []
    for name, found in _votes(attempt, verdict.tensor).items():
        agrees = found.ok
        votes[name] = f"agrees with float64, error/budget {found.ratio:.2g}" if agrees else f"off by {found.ratio:.3g}"
        dissent += [] if agrees else [name]
    odd = ", ".join(["the subject", *dissent])
    votes["odd one out"] = odd
    return replace(verdict, votes=votes)


def _votes(attempt: Attempt, tensor: str) -> dict[str, Comparison]:
    """On O and LSE together, or on one gradient alone: an oracle may be wrong in another."""
    # An oracle may be a kernel of the subject's own device.
    problem = attempt.pristine.to(attempt.device)
    if tensor in INPUTS:
        gradients = attempt.true_gradients, attempt.gradient_budget
        return vote(problem, attempt.truth, attempt.budget, *gradients, tensor=tensor)
    forward = replace(problem, dO=None, dLSE=None, needs_grad=())
    return vote(forward, attempt.truth, attempt.budget)
