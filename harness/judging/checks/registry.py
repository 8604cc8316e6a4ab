"""The checks, by name. A check is one decorated function in a file of its own in this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from strategies.case import OPERATIONS

Look = Callable[[Attempt], Iterator[Verdict]]


class Stage(IntEnum):
    """When a check looks: later stages take for granted what the earlier ones found right."""

    CALL = 0  # the call itself: it returned, and left its surroundings alone
    FORM = 1  # what came back has the right shape, dtype and device
    NUMBERS = 2  # what stands in it is right
    GRADIENTS = 3  # and so is what its backward makes of it


@dataclass(frozen=True)
class Check:
    """A check: its name, when it looks, and the operations it speaks about."""

    name: str
    stage: Stage
    operations: tuple[str, ...]
    look: Look


CHECKS: dict[str, Check] = {}


def check(stage: Stage, operations: tuple[str, ...] = OPERATIONS) -> Callable[[Look], Look]:
    """Register a check under its function's name; the function yields a Verdict for each fault that it sees."""

    def register(look: Look) -> Look:
        name = look.__name__
        CHECKS[name] = Check(name, stage, operations, look)
        return look

    return register


def look(attempt: Attempt, stages: Iterable[Stage]) -> Iterator[Verdict]:
    """What the checks of these stages see."""
    for stage in stages:
        for each in CHECKS.values():
            if each.stage is stage and attempt.case.operation in each.operations:
                yield from each.look(attempt)
