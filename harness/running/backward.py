"""The backward of a call: inputs that require gradients, and the gradients that autograd computes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from harness.interpreter.masked_lanes import zero_lanes
from harness.subject.declaration import Subject
from harness.subject.pretend import pretended_cuda
from strategies import AttentionCase, Problem
from strategies.case import INPUTS
from strategies.features import gradient_of


class NoGradient(Exception):
    """An output is not in the subject's graph, which is allowed: a refusal, not a failure."""


@dataclass(frozen=True)
class Inputs:
    """The tensors of a call by name, those that need a gradient as leaves of their own over the same memory."""

    tensors: Mapping[str, Tensor]
    needs: tuple[str, ...]

    @classmethod
    def of(cls, problem: Problem, needs: Collection[str]) -> Inputs:
        """Make the inputs of a problem; a leaf keeps the strides of its tensor, and is no view."""
        whole = problem.inputs | dict(problem.brought)
        tensors = {name: t.detach().requires_grad_() if name in needs else t for name, t in whole.items()}
        return cls(tensors, tuple(name for name in tensors if name in needs))

    @property
    def leaves(self) -> dict[str, Tensor]:
        """The inputs that need a gradient, by the gradient's name."""
        return {gradient_of(name): self.tensors[name] for name in self.needs}

    def call(self, subject: Subject, case: AttentionCase) -> Any:
        """Call the subject's function and return its result."""
        q, k, v = (self.tensors[name] for name in INPUTS)
        arguments = subject.arguments(case.features, self.tensors)
        with _conditions(subject):
            return subject.function(q, k, v, **arguments)

    def outputs(self, returned: Any, problem: Problem) -> list[tuple[Tensor, Tensor]] | None:
        """Return the outputs with their gradients, O first; None if one has not the form of its gradient.

        LSE does not depend on v: if only v needs a gradient, LSE may be outside the graph. Raises NoGradient if it is
        outside the graph in any other case.
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
    subject: Subject, outputs: Sequence[tuple[Tensor, Tensor]], leaves: Mapping[str, Tensor], keep_graph: bool = False
) -> dict[str, Tensor | None]:
    """Return the gradients of the leaves, computed in this thread, so that active modes see its calls.

    keep_graph: keep the graph for a further call.

    It calls the engine under `torch.autograd.grad`, which is itself a torch function: a mode that watches torch
    functions is inactive while one of them runs.
    """
    roots, gradients = zip(*outputs, strict=True)
    with _conditions(subject), torch.autograd.set_multithreading_enabled(False):
        found = _engine_run_backward(
            roots, gradients, keep_graph, False, tuple(leaves.values()), True, accumulate_grad=False
        )
    return dict(zip(leaves, found, strict=True))


@contextmanager
def _conditions(subject: Subject) -> Iterator[None]:
    """What holds while a subject runs: the CUDA device that is pretended, and what it relies on in masked lanes."""
    with pretended_cuda(), zero_lanes(subject.masked_lanes == "zero"):
        yield


def _is_like(output: object, gradient: Tensor) -> bool:
    form = ("shape", "dtype", "device")
    return isinstance(output, Tensor) and all(getattr(output, name) == getattr(gradient, name) for name in form)
