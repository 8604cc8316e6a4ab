"""Every oracle is held against the truth, so that one that stands alone can be named."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from oracles.budget.backward import GradientBudget, gradient_budget
from oracles.budget.forward import Budget, forward_budget
from oracles.compare import Comparison, compare
from oracles.registry import ORACLES, Answer
from oracles.truth.float64 import Truth
from oracles.truth.gradients64 import Gradients, gradients64
from strategies import Problem

TRUTH = "float64"


def vote(
    problem: Problem,
    truth: Truth,
    budget: Budget,
    gradients: Gradients | None = None,
    of_gradients: GradientBudget | None = None,
    tensor: str | None = None,
) -> dict[str, Comparison]:
    """Hold the answer of every oracle but the truth's own against the truth, each with a budget for its precision.

    budget and of_gradients: the subject's, taken for the oracles that they fit. The comparison is the worst of all
    tensors, or that of the one named. Oracles that cannot answer the problem, or refuse it with NotImplementedError,
    are left out, and so are those that say nothing of the tensor.
    """
    votes = {}
    if problem.dO is not None and gradients is None:
        gradients = gradients64(problem, truth)
    for name, oracle in ORACLES.items():
        if name == TRUTH or not oracle.supports(problem):
            continue
        try:
            answer = oracle(problem)
        except NotImplementedError:
            continue
        found = compared(answer, problem, truth, budget, gradients, of_gradients)
        if judged := [each for of, each in found.items() if tensor in (None, of)]:
            votes[name] = max(judged, key=lambda comparison: comparison.ratio)
    return votes


def hold(answer: Answer, problem: Problem, truth: Truth, budget: Budget | None = None) -> Comparison:
    """Hold one answer against the truth, with a budget for the dtype of `answer.O`; the worst one of its tensors."""
    found = compared(answer, problem, truth, budget)
    return max(found.values(), key=lambda comparison: comparison.ratio)


def compared(
    answer: Answer,
    problem: Problem,
    truth: Truth,
    budget: Budget | None = None,
    gradients: Gradients | None = None,
    of_gradients: GradientBudget | None = None,
) -> dict[str, Comparison]:
    """Each tensor of an answer, "O", "LSE", "dQ", "dK" and "dV", against the truth. What is not given is computed."""
    dtype = answer.O.dtype
    if budget is None or not budget.is_for(dtype):
        budget = forward_budget(problem, truth, dtype=dtype)
    found = {"O": compare(answer.O, truth.O, budget.O)}
    if answer.LSE is not None:
        found["LSE"] = compare(answer.LSE, truth.LSE, budget.LSE)
    return found | _compared_gradients(answer, problem, truth, gradients, of_gradients, dtype)


def _compared_gradients(
    answer: Answer,
    problem: Problem,
    truth: Truth,
    gradients: Gradients | None,
    budget: GradientBudget | None,
    dtype: torch.dtype,
) -> dict[str, Comparison]:
    if not answer.gradients:
        return {}
    gradients = gradients or gradients64(problem, truth)
    if budget is None or not budget.is_for(dtype):
        budget = gradient_budget(problem, truth, gradients, dtype=dtype)
    return {
        name: compare(got, getattr(gradients, name), getattr(budget, name)) for name, got in answer.gradients.items()
    }


def odd_one_out(votes: Mapping[str, Comparison]) -> str | None:
    """The oracle that stands alone: the only one that disagrees, or the truth where two or more do and none agrees."""
    against = [name for name, comparison in votes.items() if not comparison.ok]
    if len(against) == 1 and len(votes) > 1:
        return against[0]
    return TRUTH if len(against) == len(votes) > 1 else None
