"""The counts of a campaign: how many cases, how fast, how close to the budget, what was covered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.campaign.coverage import Coverage
from harness.campaign.distribution import Distribution
from harness.judging.seen import Seen
from oracles import Comparison
from oracles.judgement import OUTPUTS
from strategies import AttentionCase


@dataclass(frozen=True)
class Closest:
    """The largest error/budget met so far, and where."""

    ratio: float
    where: str
    case: AttentionCase


@dataclass
class Tally:
    """Counts of a campaign. `closest` is by dtype, over passing and failing cases alike.

    closest: of O and LSE; closest_gradients: of dQ, dK and dV. backwards: cases that had a backward.
    """

    started: float = field(default_factory=time.monotonic)
    cases: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    closest: dict[str, Closest] = field(default_factory=dict)
    closest_gradients: dict[str, Closest] = field(default_factory=dict)
    backwards: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    distribution: Distribution = field(default_factory=Distribution)

    @property
    def seconds(self) -> float:
        """Seconds since the campaign began."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        """Cases a second."""
        return self.cases / self.seconds if self.seconds else 0.0

    @property
    def worst(self) -> float:
        """The largest error/budget over all dtypes, gradients included."""
        all_of_them = [*self.closest.values(), *self.closest_gradients.values()]
        return max((closest.ratio for closest in all_of_them), default=0.0)

    @classmethod
    def together(cls, tallies: Iterable[Tally]) -> Tally:
        """Return the counts of several campaigns that ran at the same time."""
        whole = cls()
        for tally in tallies:
            whole._take(tally)
        return whole

    def _take(self, other: Tally) -> None:
        self.started = min(self.started, other.started)
        self.cases += other.cases
        self.refused.update(other.refused)
        self.coverage.take(other.coverage)
        self.distribution.take(other.distribution)
        self.backwards += other.backwards
        for dtype, closest in other.closest.items():
            _keep(self.closest, dtype, closest)
        for dtype, closest in other.closest_gradients.items():
            _keep(self.closest_gradients, dtype, closest)

    def refuse(self, reason: str) -> None:
        """Count a case that the subject refused."""
        self.refused[reason] += 1

    def add(self, case: AttentionCase, compared: Mapping[str, Comparison], seen: Seen | None = None) -> None:
        """Count a case; compared: each output against the truth, where it has the right form."""
        self.cases += 1
        self.backwards += case.has_gradients
        self.coverage.add(case, seen)
        if compared:
            self.distribution.add(case, max(found.ratio for found in compared.values()))
        for tensor, found in compared.items():
            by_dtype = self.closest_gradients if tensor not in OUTPUTS else self.closest
            _keep(by_dtype, case.dtype, Closest(found.ratio, f"{tensor}{list(found.index)}", case))


def _keep(by_dtype: dict[str, Closest], dtype: str, closest: Closest) -> None:
    known = by_dtype.get(dtype)
    if known is None or closest.ratio > known.ratio:
        by_dtype[dtype] = closest
