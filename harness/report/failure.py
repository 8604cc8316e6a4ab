"""What the page says of one failure: the bug report of the terminal, and which heat maps to show."""

from __future__ import annotations

import shlex

from harness.judging.heat import HeatMap
from harness.judging.story import Fact, facts
from harness.report.again import NOTHING_TO_DRAW, Picture
from harness.report.model import ReportedFailure, versions
from strategies import AttentionCase

TITLES = {"worst": "The worst case", "larger": "The smallest case made larger", "smallest": "The smallest case"}
"""Titles of pictures by name, the most telling first."""

MOST_FIGURES = 2


def summary(failure: ReportedFailure) -> str:
    """A failure in a few words: of what, how far off, and on how small a case."""
    sizes = [f"{n}={size}" for n, size in vars(failure.case.geometry).items() if size != 1 or n in ("Nq", "Nk", "d")]
    far = [f"{failure.verdict.ratio:.3g} x the budget"] if failure.verdict.tensor is not None else []
    return ", ".join([failure.subject, *far, f"{failure.case.dtype} {' '.join(sizes)}"])


def figures(failure: ReportedFailure) -> list[tuple[str, AttentionCase, HeatMap]]:
    """Title, case and heat map of the pictures that say most: one cell says nothing that the facts do not."""
    found: dict[AttentionCase, tuple[str, AttentionCase, HeatMap]] = {}
    for name, title in TITLES.items():
        picture = failure.pictures.get(name, Picture())
        if picture.map is not None and picture.case is not None:
            found.setdefault(picture.case, (title, picture.case, picture.map))
    return [each for each in found.values() if len(each[2].cells) * len(each[2].cells[0]) > 1][:MOST_FIGURES]


def why_no_figure(failure: ReportedFailure) -> str:
    """Why no heat map is shown, in a sentence."""
    smallest = failure.pictures.get("smallest", Picture())
    if smallest.map is not None:
        return "the failing output has one element."
    return smallest.sentence or NOTHING_TO_DRAW


def lines(failure: ReportedFailure) -> list[Fact]:
    """Every fact of a failure, in the order of the terminal."""
    known = facts(failure.subject, failure.case, failure.verdict)
    if failure.worst is not None:
        known.append(("worst", f"{failure.worst.ratio:.3g} x the budget: {failure.worst.case!r}"))
    if failure.met is not None:
        known.append(("first", f"after {failure.met[0]} cases, {failure.met[1]:.2f} s"))
    if failure.file is not None:
        known += [("saved", failure.file), ("again", f"flashattest replay {shlex.quote(failure.file)}")]
    if failure.versions:
        known.append(("found", f"on {failure.device} with {versions(failure.versions)}"))
    return known
