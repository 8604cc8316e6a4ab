"""Gradients of an oracle by torch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from oracles.registry import Answer
from strategies import Problem
from strategies.case import INPUTS
from strategies.features import gradient_of


def answer_with_gradients(problem: Problem, forward: Callable[[Problem], Answer]) -> Answer:
    """Return the answer of `forward` and, if the problem has a dO, its gradients by autograd in the inputs' dtype.

    If the problem has a dLSE but `forward` returns no LSE, only dV is given, which does not depend on LSE.
    """
    if problem.dO is None:
        return forward(problem)
    wanted = {name: problem.inputs[name] for name in dict.fromkeys((*INPUTS, *problem.needs_grad))}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in wanted.items()}
    with torch.enable_grad():
        answer = forward(problem.with_tensors(leaves))
    gradients = _gradients(leaves, answer, problem)
    O, LSE = answer.O.detach(), None if answer.LSE is None else answer.LSE.detach()
    lacks_dLSE = problem.dLSE is not None and answer.LSE is None
    return Answer(O, LSE, {"dV": gradients["dV"]} if lacks_dLSE else gradients)


def _gradients(leaves: Mapping[str, Tensor], answer: Answer, problem: Problem) -> dict[str, Tensor]:
    """Return the gradient of each leaf by name; zeros if no output depends on it."""
    given = [(answer.O, problem.dO), (answer.LSE, problem.dLSE)]
    reached = [(out, back.to(out.dtype)) for out, back in given if out is not None and back is not None]
    reached = [(out, back) for out, back in reached if out.requires_grad]
    if not reached:
        return {gradient_of(name): torch.zeros_like(leaf) for name, leaf in leaves.items()}
    outputs, backs = zip(*reached, strict=True)
    found = torch.autograd.grad(outputs, tuple(leaves.values()), backs, materialize_grads=True)
    return dict(zip(map(gradient_of, leaves), found, strict=True))
