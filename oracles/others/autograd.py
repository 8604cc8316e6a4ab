"""Gradients of an oracle that torch's autograd can go back through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from oracles.registry import Answer
from strategies import Problem


def differentiated(problem: Problem, forward: Callable[[Problem], Answer]) -> Answer:
    """The answer of `forward` and, where the problem has a dO, its gradients by autograd in the dtype of q, k and v.

    A forward pass without LSE lets no gradient through LSE, so where one should come it gives dV alone, which does
    not hang on it.
    """
    if problem.dO is None:
        return forward(problem)
    leaves = [tensor.detach().requires_grad_() for tensor in (problem.q, problem.k, problem.v)]
    with torch.enable_grad():
        answer = forward(replace(problem, q=leaves[0], k=leaves[1], v=leaves[2]))
    dQ, dK, dV = _gradients(leaves, answer, problem)
    O, LSE = answer.O.detach(), None if answer.LSE is None else answer.LSE.detach()
    lacks_dLSE = problem.dLSE is not None and answer.LSE is None
    return Answer(O, LSE, dV=dV) if lacks_dLSE else Answer(O, LSE, dQ, dK, dV)


def _gradients(leaves: list[Tensor], answer: Answer, problem: Problem) -> tuple[Tensor, ...]:
    """dQ, dK, dV; zeros where nothing hangs on an input."""
    given = [(answer.O, problem.dO), (answer.LSE, problem.dLSE)]
    reached = [(out, back.to(out.dtype)) for out, back in given if out is not None and back is not None]
    reached = [(out, back) for out, back in reached if out.requires_grad]
    if not reached:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    outputs, backs = zip(*reached, strict=True)
    return torch.autograd.grad(outputs, leaves, backs, materialize_grads=True)
