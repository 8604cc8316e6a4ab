"""The vote: compares every oracle with the truth, so that one that disagrees alone can be named."""

from __future__ import annotations

from oracles.compare import Comparison
from oracles.judgement import OUTPUTS, Judgement
from oracles.registry import ORACLES, Answer
from strategies import Problem

TRUTH = "float64"


def vote(judgement: Judgement, tensor: str | None = None, device: str | None = None) -> dict[str, Comparison]:
    """Compare the answer of every oracle but the truth's own with the truth, each by a budget for its precision.

    The comparison is the worst one over all tensors if `tensor` is None, over O and LSE if it is one of them, else that
    of the gradient it names. Oracles that cannot answer the problem, refuse it with NotImplementedError, or do not
    compute the gradient are left out. device: where the oracles run, as an oracle may be a kernel for it (None: the
    problem's device).
    """
    problem = judgement.problem if tensor not in OUTPUTS else judgement.problem.without_backward()
    problem = problem if device is None else problem.to(device)
    votes = {}
    for name, answer in _answers(problem).items():
        found = compare_answer(answer, judgement)
        judged = [each for of, each in found.items() if tensor in (None, *OUTPUTS) or of == tensor]
        if judged:
            votes[name] = max(judged, key=lambda comparison: comparison.ratio)
    return votes


def compare_answer(answer: Answer, judgement: Judgement) -> dict[str, Comparison]:
    """Compare each tensor of an answer with the truth, by a budget for the dtype of `answer.O`."""
    return judgement.of_dtype(answer.O.dtype).compare(answer.tensors)


def _answers(problem: Problem) -> dict[str, Answer]:
    found = {}
    for name, oracle in ORACLES.items():
        if name != TRUTH and oracle.supports(problem):
            try:
                found[name] = oracle(problem)
            except NotImplementedError:
                continue
    return found
