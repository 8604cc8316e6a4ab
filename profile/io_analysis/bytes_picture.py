"""Bytes in theory and bytes measured, a line for each problem and provider."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from io_analysis.report import IoReport, Problem
from speed.pictures import style
from speed.rows import Row
from speed.show import mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAM, _L2 = "#0072b2", "#d55e00"
_KEY = (
    ("D", _DRAM, False, "DRAM, theory"),
    ("o", _DRAM, True, "measured"),
    ("D", _L2, False, "between L2 and SMs, theory"),
    ("o", _L2, True, "measured"),
)


def moved(report: IoReport) -> Figure | None:
    """A line for each provider, by problem: bytes of DRAM and of L2, in theory (open), by ncu (filled)."""
    if not report.problems:
        return None
    margins, places = style.Margins(left=1.85, right=1.7, top=1.2), _places(report.problems)
    figure, ((axes,),) = style.panels(1, 1, (5.4, 0.235 * -min(places) + 0.4), margins)
    axes.set_xscale("log", base=2)
    for y, problem in zip(places, report.problems, strict=True):
        _problem(axes, problem, y)
    axes.set_ylim(min(places) - 0.8, 1.6)
    _heads(axes, places, report.problems)
    axes.set_yticks(places, [report.labels[problem.provider] for problem in report.problems])
    axes.grid(axis="y", visible=False)
    style.byte_axis(axes.xaxis)
    axes.set_xlabel("bytes read and written")
    known = any(problem.measured for problem in report.problems)
    said = "Bytes moved: theory against Nsight Compute" if known else "Bytes moved, in theory (nothing was measured)"
    style.title(figure, said, style.machine_line(report.machine))
    style.key(axes, _KEY if known else _KEY[::2])
    return figure


def shape(row: Row) -> str:
    """The row in a few words."""
    shared = f", GQA {row.group}:1" if row.group > 1 else ""
    return f"d {row.d}, N {style.tokens(row.N)}, {mask(row)}{shared}"


def _places(problems: list[Problem]) -> list[float]:
    """Heights from 0 downwards, with room for a title before each new row."""
    places = [0.0]
    for before, each in pairwise(problems):
        places.append(places[-1] - (1.0 if before.row == each.row else 2.5))
    return places


def _heads(axes: Axes, places: list[float], problems: list[Problem]) -> None:
    """The problem, above the first of its lines."""
    font = {"fontsize": style.SMALL, "fontweight": "bold", "color": style.INK, "va": "center"}
    before = None
    for y, problem in zip(places, problems, strict=True):
        if problem.row != before:
            axes.text(0.0, y + 1.0, shape(problem.row), font, transform=axes.get_yaxis_transform())
        before = problem.row


def _problem(axes: Axes, problem: Problem, y: float) -> None:
    """The open marks of theory, the filled ones of measurement, and their ratios at the right."""
    found, said = problem.measured, []
    asked_of_l2 = problem.asked.total if problem.asked else None
    of_dram = ("DRAM", _DRAM, problem.expected.total, found.dram if found else None, problem.dram_ratio)
    of_l2 = ("L2", _L2, asked_of_l2, found.sm if found else None, problem.l2_ratio)
    for name, colour, theory, count, ratio in (of_dram, of_l2):
        if theory:
            axes.plot(theory, y, "D", mfc="white", mec=colour, ms=6.5, mew=1.4, zorder=2)
        if count:
            axes.plot(count, y, "o", color=colour, ms=4.5, zorder=3)
        if ratio:
            said.append(f"{name} {ratio:.2f}x")
    font = {"fontsize": style.SMALL, "color": style.INK, "va": "center"}
    axes.text(1.03, y, "   ".join(said), font, transform=axes.get_yaxis_transform())
