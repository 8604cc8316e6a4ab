"""What a check says, and the exception that carries it.

One exception class a kind: Hypothesis tells bugs apart by the exception's type and line, so faults of different
kinds do not mask one another while they shrink.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from strategies import AttentionCase

KINDS = (
    "wrong_values",
    "not_finite",
    "wrong_lse",
    "wrong_shape_or_dtype",
    "input_mutated",
    "out_of_bounds",
    "undefined_lanes",
    "not_repeatable",
    "output_aliased",
    "history_dependent",
    "raised",
    "crashed",
    "timed_out",
    "wrong_gradient",
)


@dataclass(frozen=True)
class Verdict:
    """A failure, as one check of one case found it.

    kind: one of KINDS. check: the check's name. sentence: what is wrong, for a person.
    ratio: error/budget, infinite where no budget is involved. The rest describes the worst element, where there is
    one: which tensor and index, what came, what is right, how far off, how far is allowed and why (parts), and how
    every oracle voted on the element's tensor (votes: the oracle's own error/budget).
    """

    kind: str
    check: str
    sentence: str
    ratio: float = math.inf
    tensor: str | None = None
    where: tuple[int, ...] | None = None
    got: float | None = None
    wanted: float | None = None
    error: float | None = None
    budget: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    votes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}.")


class Failure(AssertionError):
    """A verdict that says no, with the case it speaks about. Each kind has a subclass of its own."""

    def __init__(self, verdict: Verdict, case: AttentionCase, report: str) -> None:
        super().__init__(report)
        self.verdict = verdict
        self.case = case


def _subclass(kind: str) -> type[Failure]:
    name = "".join(word.capitalize() for word in kind.split("_"))
    return type(name, (Failure,), {"__module__": __name__, "__doc__": f"A failure of the kind {kind}."})


FAILURES: dict[str, type[Failure]] = {kind: _subclass(kind) for kind in KINDS}


def finite_or_text(number: float | None) -> Any:
    """Return the number, or "inf", "-inf" or "nan" as text, so that JSON stays JSON."""
    return number if number is None or math.isfinite(number) else str(number)
