"""Relations: a graph that is kept gives the same gradients at any time, and any number of times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.errors import Refused, first_line
from harness.judging.relations.base import Base, Claim, FailedCall
from harness.judging.relations.gradients import budget_of, has_backward, is_deterministic
from harness.judging.relations.registry import relation
from harness.judging.verdict import Verdict
from harness.running.backward import Inputs, differentiate
from harness.running.call import refusal_in
from harness.running.memory import GuardedAllocations
from harness.running.raised import describe_raised
from strategies import Problem

NO_SECOND = ("donated buffer", "retain_graph=False")
"""torch.compile's messages if it has assumed that there is no second backward."""


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def backward_twice(base: Base) -> Iterator[Claim]:
    """Two backward passes over one graph (retain_graph=True) give the same: bit for bit for a deterministic subject."""
    graph = _Graph.of(base, base.attempt.problem)
    first, second = graph.gradients(base), graph.gradients(base)
    yield from _claims(base, first, base.gradients, "With its graph kept")
    yield from _claims(base, second, first, "In a second backward over the same graph")


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def forward_between(base: Base) -> Iterator[Claim]:
    """A forward pass on -q between a forward pass and its backward changes no gradient of the first."""
    problem = base.attempt.problem
    first = _Graph.of(base, problem)
    _Graph.of(base, replace(problem, q=-problem.q))
    yield from _claims(base, first.gradients(base), base.gradients, "With another forward before its backward")


def _claims(base: Base, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> Iterator[Claim]:
    for name in wanted.keys() & got.keys():
        kind = "history_dependent" if "another" in what else "not_repeatable"
        budget = 2 * budget_of(base.attempt, name)
        yield Claim(name, got[name], wanted[name], budget, what, kind, is_deterministic(base))


@dataclass(frozen=True)
class _Graph:
    """The outputs of a forward pass, each with its gradient, and the leaves that they depend on."""

    outputs: list[tuple[Tensor, Tensor]]
    leaves: Mapping[str, Tensor]

    @classmethod
    def of(cls, base: Base, problem: Problem) -> _Graph:
        """Run a forward pass. Raises Refused and FailedCall like `Base.again`."""
        attempt, inputs = base.attempt, Inputs.of(problem, problem.needs_grad)
        try:
            with torch.enable_grad(), GuardedAllocations():
                outputs = inputs.outputs(inputs.call(attempt.subject, attempt.case), problem)
        except Exception as error:
            raise _raised(base, error) from error
        return cls(outputs or [], inputs.leaves)

    def gradients(self, base: Base) -> dict[str, Tensor]:
        """Return the gradients of a backward pass that keeps the graph, on the device that judges."""
        try:
            with GuardedAllocations():
                found = differentiate(base.attempt.subject, self.outputs, self.leaves, True) if self.outputs else {}
        except Exception as error:
            raise _raised(base, error) from error
        place = base.problem.q.device
        return {name: tensor.to(place, copy=True) for name, tensor in found.items() if tensor is not None}


def _raised(base: Base, error: Exception) -> Exception:
    """Return the exception to raise for one that a call raised: a refusal or a failed call."""
    if refusal := refusal_in(error, base.attempt.subject, base.attempt.case):
        return refusal
    if any(words in str(error) for words in NO_SECOND):
        return Refused(first_line(error))
    return FailedCall(Verdict("raised", "returns", f"The call raised {describe_raised(error)}"))
