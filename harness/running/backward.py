"""The backward of a call: inputs that require gradients, and the gradients that autograd makes of the outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from harness.subject.declaration import Subject
from strategies import AttentionCase, Problem
from strategies.case import INPUTS
from strategies.features import gradient_of


class NoGradient(Exception):
    """The subject leaves an output out of its graph that it need not have in it."""


@dataclass(frozen=True)
class Inputs:
    """The tensors of a call by name, those that need a gradient as leaves of their own over the same memory."""

    tensors: Mapping[str, Tensor]
    needs: tuple[str, ...]

    @classmethod
    def of(cls, problem: Problem, needs: Collection[str]) -> Inputs:
        """The inputs of a problem; a leaf keeps the strides of its tensor, and is no view."""
        whole = problem.inputs | dict(problem.brought)
        tensors = {name: t.detach().requires_grad_() if name in needs else t for name, t in whole.items()}
        return cls(tensors, tuple(name for name in tensors if name in needs))

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The inputs that need a gradient, by the gradient's name."""
        return {gradient_of(name): self.tensors[name] for name in self.needs}

    def call(self, subject: Subject, case: AttentionCase) -> Any:
        """What the subject's function returns."""
        q, k, v = (self.tensors[name] for name in INPUTS)
        return subject.function(q, k, v, **subject.arguments(case.features, self.tensors))

    def outputs(self, returned: Any, problem: Problem) -> list[tuple[Tensor, Tensor]] | None:
        """The outputs that have a gradient, each with it, O first; None where one has not the form of its gradient.

        LSE does not depend on v: where only v needs a gradient, it may be outside of the graph. Raises NoGradient where
        it is so otherwise.
        """
        found = returned if isinstance(returned, tuple) else (returned,)
        wanted = [gradient for gradient in (problem.dO, problem.dLSE) if gradient is not None]
        if not len(wanted) <= len(found) <= 2:
            return None
        pairs = [pair for pair in zip(found, wanted, strict=False) if _is_like(*pair)]
        if len(pairs) < len(wanted):
            return None
        if len(pairs) == 2 and pairs[0][0].requires_grad and not pairs[1][0].requires_grad:
            if self.needs != ("v",):
                raise NoGradient("its LSE is not differentiable")
            return pairs[:1]
        return pairs


def differentiate(
    outputs: Sequence[tuple[Tensor, Tensor]], leaves: Mapping[str, Tensor], keep_graph: bool = False
) -> dict[str, Tensor | None]:
    """The gradients of the outputs in the leaves, in this thread, where modes that are entered see what it calls.

    keep_graph: leave the graph as it is for a further call.

    Not `torch.autograd.grad` itself: a mode that watches torch's functions is left while one of them runs, and it is
    one. This is what it calls.
    """
    roots, gradients = zip(*outputs, strict=True)
    with torch.autograd.set_multithreading_enabled(False):
        found = _engine_run_backward(
            roots, gradients, keep_graph, False, tuple(leaves.values()), True, accumulate_grad=False
        )
    return dict(zip(leaves, found, strict=True))


def _is_like(output: object, gradient: Tensor) -> bool:
    form = ("shape", "dtype", "device")
    return isinstance(output, Tensor) and all(getattr(output, name) == getattr(gradient, name) for name in form)
