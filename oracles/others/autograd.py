"""Gradients of an oracle that torch's autograd can go back through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from oracles.registry import Answer
from strategies import Problem
from strategies.case import INPUTS
from strategies.features import gradient_of


def differentiated(problem: Problem, forward: Callable[[Problem], Answer]) -> Answer:
    """The answer of `forward` and, where the problem has a dO, its gradients by autograd in the dtype of the inputs.

    Without an LSE no gradient comes through it: where one should, only dV is given, which does not depend on LSE.
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
    """The gradient of each leaf by its name; zeros where nothing depends on it."""
    given = [(answer.O, problem.dO), (answer.LSE, problem.dLSE)]
    reached = [(out, back.to(out.dtype)) for out, back in given if out is not None and back is not None]
    reached = [(out, back) for out, back in reached if out.requires_grad]
    if not reached:
        return {gradient_of(name): torch.zeros_like(leaf) for name, leaf in leaves.items()}
    outputs, backs = zip(*reached, strict=True)
    found = torch.autograd.grad(outputs, tuple(leaves.values()), backs, materialize_grads=True)
    return dict(zip(map(gradient_of, leaves), found, strict=True))
