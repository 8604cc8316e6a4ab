"""What an oracle is: one decorated function that answers a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from strategies import Problem
from strategies.spec import require


@dataclass(frozen=True)
class Answer:
    """An oracle's answer, in the precision that it computed in: O (B, Hq, Nq, d), natural LSE (B, Hq, Nq) or None.

    dQ (B, Hq, Nq, d), dK and dV (B, Hk, Nk, d): gradients, where the problem has a dO and the oracle gives any.
    """

    O: Tensor
    LSE: Tensor | None = None
    dQ: Tensor | None = None
    dK: Tensor | None = None
    dV: Tensor | None = None

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradients that there are, by name."""
        named = {"dQ": self.dQ, "dK": self.dK, "dV": self.dV}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class Compute(Protocol):
    """The function behind an oracle."""

    __name__: str

    def __call__(self, problem: Problem, /) -> Answer:
        """Answer the problem."""


Reason = Callable[[Problem], str | None]
F = TypeVar("F", bound=Compute)


@dataclass(frozen=True)
class Oracle:
    """A registered oracle. Its answer is held against a budget for the dtype of `Answer.O`."""

    name: str
    description: str
    compute: Compute
    reason: Reason

    def __call__(self, problem: Problem) -> Answer:
        """Answer the problem."""
        return self.compute(problem)

    def why_not(self, problem: Problem) -> str | None:
        """Why this oracle cannot answer the problem, in a few words; None where it can."""
        return self.reason(problem)

    def supports(self, problem: Problem) -> bool:
        """Whether this oracle can answer the problem."""
        return self.reason(problem) is None


ORACLES: dict[str, Oracle] = {}


def answers_all(problem: Problem) -> str | None:
    """The reason of an oracle that answers every problem: none."""
    return None


def oracle(*, why_not: Reason = answers_all) -> Callable[[F], F]:
    """Register a function under its name, its docstring's first line as the description.

    why_not says in a few words why a problem is not answered (a backend that the device lacks), or None.
    Raises ValueError where the name is taken or the docstring is missing.
    """

    def register(function: F) -> F:
        ORACLES[function.__name__] = described(function, why_not)
        return function

    return register


def described(function: Compute, why_not: Reason = answers_all) -> Oracle:
    """The oracle that a function makes, without registering it."""
    name, text = function.__name__, (function.__doc__ or "").strip()
    require(name not in ORACLES, f"An oracle is already named {name!r}; give this one another name.")
    require(bool(text), f"Oracle {name!r} needs a docstring: its first line is the description.")
    return Oracle(name, text.splitlines()[0], function, why_not)
