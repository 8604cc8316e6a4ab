"""Every oracle is held against the truth, so that one that stands alone can be named."""

from __future__ import annotations

from collections.abc import Mapping

from oracles.budget import Budget, forward_budget
from oracles.compare import Comparison, compare
from oracles.float64 import Truth
from oracles.registry import ORACLES, Answer
from strategies import Problem

TRUTH = "float64"


def vote(problem: Problem, truth: Truth, budget: Budget) -> dict[str, Comparison]:
    """Hold the answer of every oracle but the truth's own against the truth, each with a budget for its precision.

    budget: the subject's, taken for the oracles that it fits. The comparison is the worse one of O and LSE.
    Oracles that cannot answer the problem, or refuse it with NotImplementedError, are left out.
    """
    votes = {}
    for name, oracle in ORACLES.items():
        if name == TRUTH or not oracle.supports(problem):
            continue
        try:
            answer = oracle(problem)
        except NotImplementedError:
            continue
        votes[name] = hold(answer, problem, truth, budget)
    return votes


def hold(answer: Answer, problem: Problem, truth: Truth, budget: Budget | None = None) -> Comparison:
    """Hold one answer against the truth, with a budget for the dtype of `answer.O`; the worse one of O and LSE."""
    if budget is None or not budget.is_for(answer.O.dtype):
        budget = forward_budget(problem, truth, dtype=answer.O.dtype)
    found = compare(answer.O, truth.O, budget.O)
    if answer.LSE is None:
        return found
    return max(found, compare(answer.LSE, truth.LSE, budget.LSE), key=lambda comparison: comparison.ratio)


def odd_one_out(votes: Mapping[str, Comparison]) -> str | None:
    """The oracle that stands alone: the only one that disagrees, or the truth where two or more do and none agrees."""
    against = [name for name, comparison in votes.items() if not comparison.ok]
    if len(against) == 1 and len(votes) > 1:
        return against[0]
    return TRUTH if len(against) == len(votes) > 1 else None
