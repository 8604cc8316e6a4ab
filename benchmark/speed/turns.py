"""Providers take turns on a row, in several rounds, so that a device that warms up or slows down meets all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from speed.clock import Clock, Run

LEAST, MOST = 2, 100
"""Timed calls of one turn."""

T = TypeVar("T")


@dataclass(frozen=True)
class BoundCall:
    """A call, and the context of each batch of it."""

    call: Run
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def within(self, use: Callable[[Run], T]) -> T:
        """What `use` returns for the call, inside its context."""
        with self.around():
            return use(self.call)


@dataclass(frozen=True)
class Spread:
    """Samples in one unit: their median and quartiles, how many they are, and the median of each round."""

    median: float
    q1: float
    q3: float
    samples: int
    rounds: list[float]

    @classmethod
    def of(cls, rounds: list[list[float]]) -> Spread:
        """Of the samples of each round."""
        q1, median, q3 = (float(x) for x in np.percentile(np.concatenate(rounds), (25, 50, 75)))
        return cls(median, q1, q3, sum(map(len, rounds)), [float(np.median(r)) for r in rounds])


@dataclass(frozen=True)
class Schedule:
    """Rounds that providers take turns in, and the milliseconds of timed calls that each gets in all of them."""

    rounds: int
    milliseconds: float

    def repeats(self, estimate: float) -> int:
        """Timed calls of one turn, of a call that takes `estimate` milliseconds."""
        return int(min(MOST, max(LEAST, self.milliseconds / self.rounds / max(estimate, 1e-6))))


def take_turns(calls: Mapping[str, BoundCall], clock: Clock, schedule: Schedule) -> dict[str, Spread]:
    """Milliseconds of each call, by name; each round begins with another one. An error of a call is not caught."""
    repeats = {name: schedule.repeats(bound.within(clock.estimate)) for name, bound in calls.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in calls}
    for turn in range(schedule.rounds):
        for name in _rotated(list(calls), turn):
            timed = partial(clock.times, repeats=repeats[name])
            rounds[name].append(calls[name].within(timed))
    return {name: Spread.of(times) for name, times in rounds.items()}


def _rotated(names: list[str], by: int) -> list[str]:
    by %= max(1, len(names))
    return names[by:] + names[:by]
