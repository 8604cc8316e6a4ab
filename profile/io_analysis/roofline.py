"""The roofline: speed against operations for each byte of DRAM, under the ceilings that were measured."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

from io_analysis.bytes_picture import shape
from io_analysis.report import IoReport, Problem
from speed.pictures import style
from speed.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def roofline(report: IoReport) -> Figure | None:
    """For each problem that ncu measured, the letter of its row in its provider's colour; None if it measured none."""
    found = [(problem, point) for problem in report.problems if (point := _point(problem)) is not None]
    if not found or report.ceilings is None:
        return None
    letters = dict(zip(dict.fromkeys(problem.row for problem, _ in found), ascii_lowercase, strict=False))
    margins = style.Margins(right=2.4, top=0.95)
    figure, ((axes,),) = style.panels(1, 1, (5.8, 4.2), margins)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ceilings(axes, max(report.ceilings.matmul.values()), report.ceilings.copy * 1e-3, [point for _, point in found])
    for each, (x, y) in found:
        look = style.look(each.provider, report.ours)
        letter = rf"$\mathrm{{{letters[each.row]}}}$"
        axes.plot(x, y, marker=letter, color=look.colour, ms=7.5, zorder=look.front)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("FLOP for each byte that DRAM moved")
    axes.set_ylabel("TFLOP/s")
    _key(axes, report, [problem.provider for problem, _ in found], letters)
    said = f"{style.machine_line(report.machine)} · times and bytes by ncu, caches cold"
    style.title(figure, "Roofline of forward attention", said)
    return figure


def _point(problem: Problem) -> tuple[float, float] | None:
    """FLOP a byte, and TFLOP/s."""
    found = problem.measured
    if found is None or not found.seconds or not found.dram:
        return None
    return problem.row.flops / found.dram, problem.row.flops / found.seconds * 1e-12


def _ceilings(axes: Axes, matmul: float, copy: float, points: list[tuple[float, float]]) -> None:
    """The slope of the copy and the flat of the product, each with its name at it."""
    ridge = matmul / copy
    low, high = min(ridge / 4, *(x / 2 for x, _ in points)), max(4 * ridge, *(2 * x for x, _ in points))
    axes.plot([low, ridge, high], [copy * low, matmul, matmul], color=style.GREY, lw=1.4, zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(min(y for _, y in points) / 2, 1.6 * matmul)
    font = {"fontsize": style.SMALL, "color": style.GREY}
    at: dict[str, Any] = {"textcoords": "offset points"}
    axes.annotate(f"matrix product, {matmul:.0f} TFLOP/s", (high, matmul), (-4, 5), **at).set(ha="right", **font)
    x = (low * ridge) ** 0.5
    axes.annotate(f"copy, {copy:.2f} TB/s", (x, copy * x), (-8, 2), **at).set(ha="right", **font)


def _key(axes: Axes, report: IoReport, providers: list[str], letters: dict[Row, str]) -> None:
    """The providers' colours and the rows' letters, at the right."""
    y, step = 0.97, 0.055
    for name in dict.fromkeys(providers):
        look = style.look(name, report.ours)
        axes.plot(1.05, y, look.marker, color=look.colour, ms=6.5, transform=axes.transAxes, clip_on=False)
        weight = "bold" if look.ours else "normal"
        font = {"fontsize": style.SMALL, "color": look.colour, "va": "center", "weight": weight}
        axes.text(1.08, y, report.labels[name], font, transform=axes.transAxes)
        y -= step
    for row, letter in letters.items():
        y -= step
        font = {"fontsize": style.SMALL, "color": style.INK, "va": "center"}
        axes.text(1.043, y, letter, {**font, "weight": "bold"}, transform=axes.transAxes)
        axes.text(1.08, y, shape(row), font, transform=axes.transAxes)
