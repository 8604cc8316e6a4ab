"""The running account of a campaign: how many cases, how fast, how close to the budget, what was covered."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.coverage import Coverage
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

    def refuse(self, reason: str) -> None:
        """Count a case that the subject refused."""
        self.refused[reason] += 1

    def add(self, case: AttentionCase, compared: Mapping[str, Comparison], rescales: str | None = None) -> None:
        """Count a case, with what came of holding its outputs against the truth, where they could be."""
        self.cases += 1
        self.coverage.add(case, rescales)
        for tensor, found in compared.items():
            known = self.closest.get(case.dtype)
            if known is None or found.ratio > known.ratio:
                self.closest[case.dtype] = Closest(found.ratio, f"{tensor}{list(found.index)}", case)
