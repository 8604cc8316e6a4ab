"""The distribution of error/budget over a campaign's cases: a histogram per class of the most important axes.

The largest ratio shows how near the worst case came. The histograms show whether others came near too, and where.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

from harness.campaign.coverage import axes
from strategies import AttentionCase
from strategies.features import Axis

LEAST, MOST = -12, 24
"""The outermost bins, which also count smaller and larger ratios."""

ZERO, INFINITE = "zero", "inf"

BINS = (ZERO, *(str(k) for k in range(LEAST, MOST + 1)), INFINITE)
"""Names of the bins, in order: bin k holds ratios above 2^(k-1) and up to 2^k, so those up to "0" are within budget."""


def histogram_axes() -> tuple[Axis, ...]:
    """Return the axes with a histogram of error/budget per class."""
    return _with_histograms(axes())


@cache
def _with_histograms(every: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(axis for axis in every if axis.has_histogram)


def bin_of(ratio: float) -> str:
    """Return the name of the bin that holds an error/budget; NaN counts as infinite."""
    if ratio == 0:
        return ZERO
    if not math.isfinite(ratio):
        return INFINITE
    mantissa, exponent = math.frexp(ratio)
    # A power of 2 is the largest of its bin: an error of exactly the budget is within it.
    k = exponent - 1 if mantissa == 0.5 else exponent
    return str(min(max(k, LEAST), MOST))


@dataclass
class Distribution:
    """The number of cases in each bin, by axis and class."""

    counts: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: {axis.name: {} for axis in histogram_axes()}
    )

    def add(self, case: AttentionCase, ratio: float) -> None:
        """Count a case by its largest error/budget, under each of its classes."""
        where = bin_of(ratio)
        for axis in histogram_axes():
            classes = self.counts[axis.name]
            for name in axis.of(case):
                classes.setdefault(name, Counter())[where] += 1

    def take(self, other: Distribution) -> None:
        """Add the counts of another campaign."""
        for axis, classes in other.counts.items():
            for name, counter in classes.items():
                self.counts[axis].setdefault(name, Counter()).update(counter)

    def to_json(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return counts by axis, class and bin; bins are named as in BINS, and empty ones are left out."""
        return {
            axis: {name: {b: counter[b] for b in BINS if counter[b]} for name, counter in sorted(classes.items())}
            for axis, classes in self.counts.items()
            if classes
        }
