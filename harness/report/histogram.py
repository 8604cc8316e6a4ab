"""Histograms of error/budget as rows of a table: a class, its bars, its cases, and the largest bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.campaign.distribution import BINS, INFINITE, LEAST, MOST, ZERO
from harness.report.markup import Html, breakable, element, joined
from harness.report.model import Spread

WITHIN = BINS.index("0")
"""Bins up to this one are within budget."""

_ALWAYS = range(BINS.index("-6"), BINS.index("2") + 1)
BAR, HEIGHT = 10, 40


def bins_in_use(spread: Spread) -> Sequence[str]:
    """The bins that a source's histograms show: one stretch that all share, so that they can be compared."""
    used = [BINS.index(name) for classes in spread.values() for counts in classes.values() for name in _known(counts)]
    inner = [place for place in used if BINS[place] not in (ZERO, INFINITE)] + list(_ALWAYS)
    shown = set(range(min(inner), max(inner) + 1)) | set(used)
    return [name for place, name in enumerate(BINS) if place in shown]


def table(axis: str, classes: Mapping[str, Mapping[str, int]], bins: Sequence[str]) -> Html:
    """The histograms of an axis, one class a row."""
    head = element(
        "tr",
        element("th", "class", scope="col"),
        element("th", _scale(bins), scope="col", class_="bars"),
        element("th", "cases", scope="col", class_="figure"),
        element("th", "largest", scope="col", class_="figure"),
    )
    rows = joined(_row(name, counts, bins) for name, counts in classes.items())
    caption = element("caption", axis)
    return element("table", caption, element("thead", head), element("tbody", rows), class_="spread")


def _row(name: str, counts: Mapping[str, int], bins: Sequence[str]) -> Html:
    largest = max(_known(counts), key=BINS.index, default=ZERO)
    is_over = BINS.index(largest) > WITHIN
    return element(
        "tr",
        element("th", breakable(name), scope="row"),
        element("td", _bars(counts, bins), class_="bars"),
        element("td", f"{sum(counts.values()):,}", class_="figure"),
        element("td", told(largest), class_="figure over" if is_over else "figure"),
    )


def told(name: str) -> str:
    """What a bin holds, for a person."""
    if name in (ZERO, INFINITE):
        return {ZERO: "0", INFINITE: "inf"}[name]
    k = int(name)
    if k in (LEAST, MOST):
        return f"{'≤' if k == LEAST else '>'} {_power(k if k == LEAST else k - 1)}"
    return f"≤ {_power(k)}"


def _power(k: int) -> str:
    """2 to the power of k: in figures where those are few."""
    if -3 <= k <= 10:
        return str(2**k) if k >= 0 else f"1/{2**-k}"
    return "2" + str(k).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _bars(counts: Mapping[str, int], bins: Sequence[str]) -> Html:
    """Bars whose area grows with the root of the count, so that one case in a thousand can still be seen."""
    most = max(counts.values(), default=1) or 1
    bars = []
    for place, name in enumerate(bins):
        height = round(HEIGHT * (counts.get(name, 0) / most) ** 0.5, 1)
        colour = "over" if BINS.index(name) > WITHIN else "within"
        if height:
            bars.append(
                element("rect", x=place * BAR + 1, y=HEIGHT - height, width=BAR - 2, height=height, class_=colour)
            )
    edge = BAR * (1 + bins.index("0"))
    budget = element("path", d=f"M{edge} 0v{HEIGHT}", class_="budget")
    view = f"0 0 {BAR * len(bins)} {HEIGHT}"
    return element("svg", *bars, budget, viewBox=view, preserveAspectRatio="none", aria_hidden="true")


def _scale(bins: Sequence[str]) -> Html:
    """The first bin, the budget and, where there is room beside that, the last bin, each where it stands."""
    share = (1 + bins.index("0")) / len(bins)
    has_room = share < 0.6
    budget = element("span", "budget", style=f"left:{100 * share:.1f}%", class_="at" if has_room else "at before")
    last = element("span", told(bins[-1])) if has_room else None
    return element("span", element("span", told(bins[0])), budget, last, class_="scale")


def _known(counts: Mapping[str, int]) -> list[str]:
    return [name for name, cases in counts.items() if name in BINS and cases]
