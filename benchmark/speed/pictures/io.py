"""Bytes in theory beside bytes measured, and how they grow."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from speed.io_report import IoReport, Problem
from speed.pictures import style
from speed.pictures.style import End
from speed.rows import Row
from speed.show import mask
from speed.traffic import Tile, asked, least, naive

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
_TILES = ((Tile(64, 64), ":"), (Tile(128, 64), "--"), (Tile(256, 64), "-"))
_LENGTHS = [1 << power for power in range(9, 17)]


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


def growth(report: IoReport) -> Figure | None:
    """Bytes against N, in theory: naive, flash at least, and what tiles of several heights ask of L2."""
    if not report.problems:
        return None
    margins, dtype = style.Margins(right=2.5, left=0.85), report.problems[0].row.dtype
    figure, (across,) = style.panels(1, 2, (3.6, 3.4), margins)
    for causal, axes in zip((False, True), across, strict=True):
        rows = [Row(N=N, d=128, Hq=16, Hk=16, dtype=dtype, causal=causal) for N in _LENGTHS]
        axes.set_yscale("log", base=2)
        ends = [_curve(axes, "naive, DRAM", [naive(row).total for row in rows], style.GREY, "-")]
        ends.append(_curve(axes, "flash, DRAM at least", [least(row).total for row in rows], _DRAM, "-"))
        for tile, line in _TILES:
            counts = [asked(row, tile).total for row in rows]
            ends.append(_curve(axes, f"flash, of L2, {tile.BLOCK_M} queries a tile", counts, _L2, line))
        style.token_axis(axes, _LENGTHS)
        style.byte_axis(axes.yaxis)
        style.panel_title(axes, "causal" if causal else "full")
        style.label_ends(axes, ends)
    below = f"theory: {dtype}, 16 heads, d 128 (benchmark/speed/traffic.py)"
    style.title(figure, "Bytes that attention must move, and bytes that its tiles ask for", below)
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


def _curve(axes: Axes, said: str, counts: list[float], colour: str, line: str) -> End:
    axes.plot(_LENGTHS, counts, color=colour, lw=1.6, ls=line)
    return End(_LENGTHS[-1], counts[-1], f"{said}  {style.in_bytes(counts[-1])}", colour)
