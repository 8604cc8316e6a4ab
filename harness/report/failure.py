"""One failure on the page: the bug report of the terminal, and heat maps of where it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from harness.judging.heat import HeatMap
from harness.judging.story import Fact, facts
from harness.report.again import NOTHING_TO_DRAW, Picture
from harness.report.markup import Html, breakable, element
from harness.report.model import Shown
from harness.report.picture import LEVELS, draw, words
from strategies import AttentionCase

TITLES = {"worst": "The worst case", "larger": "The smallest case made larger", "smallest": "The smallest case"}
"""What the pictures show, the most telling first."""

MOST_FIGURES = 2


def article(shown: Shown, anchor: str) -> Html:
    """A failure with everything that is known of it. Folded where it is known to be mended."""
    drawn = figures(shown)
    body = element(
        "div",
        element("div", *drawn, class_="figures") if drawn else None,
        element("div", _missing(shown) if not drawn else None, _facts(shown)),
        class_=f"body pictured-{len(drawn)}" if drawn else "body",
    )
    heading = element("h4", f"{shown.verdict.kind} (check {shown.verdict.check})")
    sentence = element("p", shown.verdict.sentence, class_="sentence")
    head = element("summary", heading, " ", state(shown), " ", element("span", summary(shown), class_="muted"))
    folded = element("details", head, sentence, body, open=shown.fails is not False)
    return element("article", folded, class_="card failure", id=anchor)


def state(shown: Shown) -> Html | None:
    """Whether it fails now, where it was run again for this page."""
    if shown.met is not None:
        return None
    told = {True: ("still fails", "bad"), False: ("does not fail here now", "good"), None: ("not run here", "muted")}
    words_of_it, colour = told[shown.fails]
    return element("span", words_of_it, class_=colour)


def summary(shown: Shown) -> str:
    """A failure in a few words: of what, how far off, and on how small a case."""
    g, ratio = shown.case.geometry, shown.verdict.ratio
    far = [f"{ratio:.3g} x the budget"] if shown.verdict.tensor is not None else []
    sizes = [f"{name}={size}" for name, size in vars(g).items() if size != 1 or name in ("Nq", "Nk", "d")]
    return ", ".join([shown.subject, *far, f"{shown.case.dtype} {' '.join(sizes)}"])


def legend() -> Html:
    """What the colours of heat maps mean."""
    items = [element("li", _swatch(colour), name) for colour, name in enumerate(LEVELS)]
    return element("ul", *items, class_="legend", aria_label="Error/budget by colour")


def _swatch(colour: int) -> Html:
    square = element("rect", width=20, height=20, class_=f"h{colour}")
    return element("svg", square, viewBox="0 0 20 20", aria_hidden="true")


def figures(shown: Shown) -> list[Html]:
    """The heat maps that say most: those of one cell say nothing that the facts do not."""
    return [_figure(title, case, found) for title, case, found in _telling(shown)][:MOST_FIGURES]


def _telling(shown: Shown) -> Iterator[tuple[str, AttentionCase, HeatMap]]:
    seen = set()
    for name, title in TITLES.items():
        picture = shown.pictures.get(name, Picture())
        if picture.map is None or picture.case is None or picture.case in seen:
            continue
        seen.add(picture.case)
        if len(picture.map.cells) * len(picture.map.cells[0]) > 1:
            yield title, picture.case, picture.map


def _figure(title: str, case: AttentionCase, found: HeatMap) -> Html:
    caption = element("figcaption", element("strong", title), words(found))
    return element("figure", caption, draw(found, f"Heat map of error/budget. {title}"), data_case=repr(case))


def _missing(shown: Shown) -> Html:
    """Why there is no picture, in a sentence."""
    smallest = shown.pictures.get("smallest", Picture())
    if smallest.map is not None:
        sentence = "No heat map: the failing output has one element."
    else:
        sentence = f"No heat map: {smallest.sentence or NOTHING_TO_DRAW}"
    return element("p", sentence, class_="muted")


def _facts(shown: Shown) -> Html:
    """The lines that the terminal prints, names and all."""
    return element("dl", *(part for fact in lines(shown) for part in _fact(*fact)), class_="facts")


def _fact(name: str, said: str) -> list[Html]:
    return [*([element("dt", name)] if name else []), element("dd", breakable(said))]


def lines(shown: Shown) -> list[Fact]:
    """Every fact of a failure, in the order of the terminal."""
    told = facts(shown.subject, shown.case, shown.verdict)
    if shown.worst is not None:
        told.append(("worst", f"{shown.worst.ratio:.3g} x the budget: {shown.worst.case!r}"))
    if shown.met is not None:
        told.append(("first", f"after {shown.met[0]} cases, {shown.met[1]:.2f} s"))
    if shown.file is not None:
        told += [("saved", shown.file), ("again", f"flashattest replay {shlex.quote(shown.file)}")]
    if shown.versions:
        versions = ", ".join(f"{name} {version}" for name, version in shown.versions.items())
        told.append(("found", f"on {shown.device} with {versions}"))
    return told
