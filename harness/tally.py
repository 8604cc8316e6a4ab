"""The running account of a campaign: how many cases, how fast, how close to the budget, what was covered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.coverage import Coverage
from harness.distribution import Distribution
from oracles import Comparison
from strategies import AttentionCase


@dataclass(frozen=True)
class Closest:
    """The largest error/budget met so far, and where."""

    ratio: float
    where: str
    case: AttentionCase


@dataclass
class Tally:
    """Counts of a campaign. `closest` is by dtype, over passing and failing cases alike."""

    started: float = field(default_factory=time.monotonic)
    cases: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    closest: dict[str, Closest] = field(default_factory=dict)
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
        """The largest error/budget over all dtypes."""
        return max((closest.ratio for closest in self.closest.values()), default=0.0)

    @classmethod
    def together(cls, tallies: Iterable[Tally]) -> Tally:
        """One account of several campaigns that ran at the same time."""
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
        for dtype, closest in other.closest.items():
            self._keep_closest(dtype, closest)

    def _keep_closest(self, dtype: str, closest: Closest) -> None:
        known = self.closest.get(dtype)
        if known is None or closest.ratio > known.ratio:
            self.closest[dtype] = closest

    def refuse(self, reason: str) -> None:
        """Count a case that the subject refused."""
        self.refused[reason] += 1

    def add(self, case: AttentionCase, compared: Mapping[str, Comparison], rescales: str | None = None) -> None:
        """Count a case, with what came of holding its outputs against the truth, where they could be."""
        self.cases += 1
        self.coverage.add(case, rescales)
        if compared:
            self.distribution.add(case, max(found.ratio for found in compared.values()))
        for tensor, found in compared.items():
            self._keep_closest(case.dtype, Closest(found.ratio, f"{tensor}{list(found.index)}", case))
