"""The registry of oracles: an oracle is one decorated function that answers a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from torch import Tensor

from strategies import Problem
from strategies.spec import require


@dataclass(frozen=True)
class Answer:
    """An oracle's answer, in the precision of its computation: O (B, Hq, Nq, d), natural LSE (B, Hq, Nq) or None.

    gradients: by name ("dQ", "dK", ...), those that the oracle computes if the problem has a dO.
    """

    O: Tensor
    LSE: Tensor | None = None
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: "O", "LSE" unless it is None, and the gradients."""
        outputs = {"O": self.O} if self.LSE is None else {"O": self.O, "LSE": self.LSE}
        return outputs | dict(self.gradients)

    def without(self, gradient: str) -> Answer:
        """Return the answer without one of its gradients."""
        return replace(self, gradients={name: found for name, found in self.gradients.items() if name != gradient})


class Compute(Protocol):
    """The function behind an oracle."""

    __name__: str

    def __call__(self, problem: Problem, /) -> Answer:
        """Answer the problem."""


Reason = Callable[[Problem], str | None]
F = TypeVar("F", bound=Compute)


@dataclass(frozen=True)
class Oracle:
    """A registered oracle. Its answer is compared by a budget for the dtype of `Answer.O`."""

    name: str
    description: str
    compute: Compute
    reason: Reason

    def __call__(self, problem: Problem) -> Answer:
        """Answer the problem."""
        return self.compute(problem)

    def why_not(self, problem: Problem) -> str | None:
        """Return in a few words why this oracle cannot answer the problem; None if it can."""
        return self.reason(problem)

    def supports(self, problem: Problem) -> bool:
        """Whether this oracle can answer the problem."""
        return self.reason(problem) is None


ORACLES: dict[str, Oracle] = {}


def answers_all(problem: Problem) -> str | None:
    """Return no reason: the oracle answers every problem."""
    return None


def oracle(*, why_not: Reason = answers_all) -> Callable[[F], F]:
    """Register a function under its name, its docstring's first line as the description.

    why_not returns in a few words why a problem is not answered (a backend that the device lacks), or None.
    Raises ValueError if the name is taken or the docstring is missing.
    """

    def register(function: F) -> F:
        ORACLES[function.__name__] = make_oracle(function, why_not)
        return function

    return register


def make_oracle(function: Compute, why_not: Reason = answers_all) -> Oracle:
    """Make an oracle of a function without registering it."""
    name, text = function.__name__, (function.__doc__ or "").strip()
    require(name not in ORACLES, f"An oracle is already named {name!r}; give this one another name.")
    require(bool(text), f"Oracle {name!r} needs a docstring: its first line is the description.")
    return Oracle(name, text.splitlines()[0], function, why_not)
