"""Histograms of error/budget: the bins that they show, and the bars of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.campaign.distribution import BINS, INFINITE, MOST, ZERO
from harness.report.model import Spread

_ALWAYS = range(BINS.index("-6"), BINS.index("2") + 1)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def bins_in_use(spread: Spread) -> list[str]:
    """The bins that a source's histograms show: one stretch that all share, so that they can be compared."""
    used = {BINS.index(name) for classes in spread.values() for counts in classes.values() for name in _known(counts)}
    inner = {place for place in used if BINS[place] not in (ZERO, INFINITE)} | set(_ALWAYS)
    return [BINS[place] for place in sorted(used | set(range(min(inner), max(inner) + 1)))]


def bars(counts: Mapping[str, int], bins: Sequence[str]) -> Iterator[tuple[int, float, bool]]:
    """Place, height (1 is the largest) and whether it is over budget, for each bar.

    Heights are roots of counts, so that one case in a thousand can still be seen.
    """
    most = max(counts.values(), default=0)
    for place, name in enumerate(bins):
        if counts.get(name):
            yield place, (counts[name] / most) ** 0.5, is_over(name)


def largest_bin(counts: Mapping[str, int]) -> str:
    """The bin of the largest error/budget."""
    return max(_known(counts), key=BINS.index, default=ZERO)


def is_over(name: str) -> bool:
    """Whether a bin is over budget."""
    return BINS.index(name) > BINS.index("0")


def limit(name: str) -> str:
    """What a bin holds, for a person."""
    if name in (ZERO, INFINITE):
        return {ZERO: "0", INFINITE: "inf"}[name]
    k = int(name)
    return f"> {_power(k - 1)}" if k == MOST else f"≤ {_power(k)}"


def _power(k: int) -> str:
    """2 to the power of k: in figures if those are few."""
    if -3 <= k <= 10:
        return str(2**k) if k >= 0 else f"1/{2**-k}"
    return "2" + str(k).translate(_SUPERSCRIPTS)


def _known(counts: Mapping[str, int]) -> list[str]:
    return [name for name, cases in counts.items() if name in BINS and cases]
