"""A source's numbers on the page: counts and speed, the spread of error/budget, coverage and what was never hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from harness.campaign.distribution import Distribution
from harness.report.histogram import bins_in_use, table
from harness.report.markup import Html, element, joined
from harness.report.model import Account, Shown, Source, Spread


def tiles(figures: Mapping[str, str]) -> Html:
    """A few figures, each with its name."""
    each = [element("div", element("dt", name), element("dd", figure)) for name, figure in figures.items()]
    return element("dl", *each, class_="tiles")


def of_campaign(account: Account, failures: int) -> dict[str, str]:
    """What is said of a campaign first: how much was tried, how fast, how near the budget it came."""
    worst = max(account.worst.values(), default=0.0)
    of_gradients = {"worst of gradients": f"{max(account.gradients.values()):.3g}"} if account.gradients else {}
    return {
        "failures": str(failures),
        "cases": f"{account.cases:,}",
        "cases/s": f"{account.rate:,.1f}",
        "seconds": f"{account.seconds:,.1f}",
        "refused": f"{account.refused:,}",
        "worst error/budget": f"{worst:.3g}",
    } | of_gradients


def of_corpus(source: Source) -> dict[str, str]:
    """What is said of saved failures first: how many, and how many of them are left."""
    states = Counter(shown.fails for shown in source.failures)
    told = {
        "saved failures": str(len(source.failures)),
        "subjects": str(len({shown.subject for shown in source.failures})),
        "still fail": str(states[True]),
        "do not fail here now": str(states[False]),
        "not run here": str(states[None]),
    }
    return told | ({"cannot be read": str(len(source.unread))} if source.unread else {})


def refusals(account: Account) -> Html | None:
    """Why the subject refused cases."""
    if not account.refusals:
        return None
    items = [element("li", f"{count:,} times: {why}") for why, count in account.refusals.items()]
    return element("details", element("summary", f"Why {account.refused:,} cases were refused"), element("ul", *items))


def spread_of(failures: Sequence[Shown]) -> Spread:
    """The spread of saved failures, by what was saved of them; those without numbers left out."""
    counted = Distribution()
    for shown in failures:
        if shown.verdict.tensor is not None:
            counted.add(shown.case, shown.verdict.ratio)
    return counted.to_json()


def distribution(spread: Spread, of_what: str) -> Html | None:
    """Histograms by dtype, large, and by the other axes."""
    if not any(spread.values()):
        return None
    bins = bins_in_use(spread)
    said = (
        f"How many {of_what} came how near the budget, on a scale of powers of 2; a height is the root of a count. "
        "Bars past the dashed line are over budget."
    )
    large = element("div", table("dtype", spread["dtype"], bins), class_="card tall") if "dtype" in spread else None
    others = [element("div", table(a, classes, bins), class_="card") for a, classes in spread.items() if a != "dtype"]
    heading = element("h3", "Error/budget")
    return joined([heading, element("p", said, class_="muted"), large, element("div", *others, class_="masonry wide")])


def coverage(account: Account) -> Html | None:
    """The classes of every axis with their cases; those that were never hit come first."""
    axes = [axis for axis in account.coverage if account.coverage[axis] or account.never_hit.get(axis)]
    if not axes:
        return None
    never = sum(map(len, account.never_hit.values()))
    hit = sum(count > 0 for axis in axes for count in account.coverage[axis].values())
    cards = [_axis(axis, account.coverage[axis], account.never_hit.get(axis, ())) for axis in axes]
    said = element("p", f"{hit} of {hit + never} classes were hit{_named(account.never_hit)}.", class_="muted")
    return joined([element("h3", "Coverage"), said, element("div", *cards, class_="masonry")])


def _named(never_hit: Mapping[str, Sequence[str]]) -> str:
    named = [f"{axis}: {', '.join(classes)}" for axis, classes in never_hit.items() if classes]
    return f"; never hit: {'; '.join(named)}" if named else ""


def _axis(name: str, hits: Mapping[str, int], never: Sequence[str]) -> Html:
    count = sum(cases > 0 for cases in hits.values())
    missed = [element("li", f"{each}: never hit", class_="never") for each in never]
    most_first = sorted(hits.items(), key=lambda pair: -pair[1])
    found = [element("li", each, " ", element("span", f"{n:,}", class_="count")) for each, n in most_first if n]
    heading = element("h4", f"{name} ", element("span", f"{count} of {count + len(never)}", class_="muted"))
    return element("div", heading, element("ul", *missed, *found, class_="chips"), class_="card")
