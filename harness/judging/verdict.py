"""Verdicts, and the exceptions that carry them.

Each kind has its own exception class: Hypothesis distinguishes bugs by the exception's type and line, so faults of
different kinds do not mask one another while they shrink.
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
    """A failure that one check found in one case.

    kind: one of KINDS. check: the check's name. sentence: what is wrong, for a person.
    ratio: error/budget, infinite if no budget is involved. The rest describes the worst element, if there is one: its
    tensor and index (where), the value found (got) and the right one (wanted), the error, the budget and its parts, and
    how every oracle voted on the tensor (votes: the oracle's own error/budget).
    place: where an exception was raised, so that two are told apart; it is not saved, since the sentence has it too.
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
    place: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}.")


class Failure(AssertionError):
    """A verdict with its case. Each kind has a subclass of its own."""

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
