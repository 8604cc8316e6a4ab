"""The registry of checks: a check is one decorated function in a file of its own in this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from strategies.case import OPERATIONS

Look = Callable[[Attempt], Iterator[Verdict]]


class Stage(IntEnum):
    """The order of the checks: later stages rely on what the earlier ones found right."""

    CALL = 0  # the call returned, and wrote only to its own tensors
    FORM = 1  # the results have the right shape, dtype and device
    NUMBERS = 2  # O and LSE are right
    GRADIENTS = 3  # the gradients are right


@dataclass(frozen=True)
class Check:
    """A check: its name, its stage, and the operations that it applies to."""

    name: str
    stage: Stage
    operations: tuple[str, ...]
    look: Look


CHECKS: dict[str, Check] = {}


def check(stage: Stage, operations: tuple[str, ...] = OPERATIONS) -> Callable[[Look], Look]:
    """Register a check under its function's name; the function yields a Verdict for each fault that it finds."""

    def register(look: Look) -> Look:
        name = look.__name__
        CHECKS[name] = Check(name, stage, operations, look)
        return look

    return register


def run_checks(attempt: Attempt, stages: Iterable[Stage]) -> Iterator[Verdict]:
    """Yield what the checks of these stages find."""
    for stage in stages:
        for each in CHECKS.values():
            if each.stage is stage and attempt.case.operation in each.operations:
                yield from each.look(attempt)
