"""TFLOP/s against N, a panel for each d and mask; and TFLOP/s against the heads that share K and V."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from speed.pictures import style
from speed.results import Results, Timed
from speed.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = ("peers", "fa2", "causal", "backward", "grid", "quick")
Lines = dict[str, list[tuple[float, float, float, float]]]
"""By provider: x, TFLOP/s, and TFLOP/s at the slower and the faster quartile."""


def rates(results: Results, dtype: str, direction: str = "forward") -> Figure | None:
    """TFLOP/s of a pass against N; None where no preset has several N of one d."""
    of_pass = [t for t in results.of(*PRESETS) if (t.row.dtype, t.row.direction) == (dtype, direction)]
    timed = [t for t in of_pass if is_plain(t.row)]
    dims, masks = sorted({t.row.d for t in timed}), sorted({t.row.causal for t in timed})
    if len({t.row.N for t in timed}) < 2:
        return None
    margins = style.Margins()
    figure, axes = style.panels(len(dims), len(masks), (3.0, 2.5), margins)
    for d, across in zip(dims, axes, strict=True):
        for masked, each in zip(masks, across, strict=True):
            of_panel = [t for t in timed if (t.row.d, t.row.causal) == (d, masked)]
            style.panel_title(each, f"d {d}, {'causal' if masked else 'full'}")
            _panel(each, results, of_panel, lambda row: row.N, results.ceilings.matmul.get(dtype))
            style.token_axis(each, [t.row.N for t in of_panel])
    said = f"{direction.capitalize()} attention, {dtype}: speed against length"
    style.title(figure, said, f"{style.machine_line(results.machine)} · {_method(results, direction)}")
    return figure


def shared_heads(results: Results) -> Figure | None:
    """TFLOP/s against Hq / Hk; None where the preset gqa was not run."""
    timed = results.of("gqa")
    masks = sorted({t.row.causal for t in timed})
    if not timed:
        return None
    margins, row = style.Margins(), timed[0].row
    figure, (across,) = style.panels(1, len(masks), (3.0, 2.5), margins)
    for masked, each in zip(masks, across, strict=True):
        of_panel = [t for t in timed if t.row.causal == masked]
        style.panel_title(each, "causal" if masked else "full")
        _panel(each, results, of_panel, lambda row: row.group, results.ceilings.matmul.get(row.dtype))
        groups = sorted({t.row.group for t in of_panel})
        each.set_xscale("log", base=2)
        each.set_xticks(groups, [f"{group}:1" for group in groups])
        each.minorticks_off()
        each.set_xlabel("heads of Q to one of K and V")
    said = f"Forward attention, {row.dtype}: heads that share K and V"
    below = f"B {row.B}, {row.Hq} heads, N {row.N}, d {row.d} · {style.machine_line(results.machine)}"
    style.title(figure, said, below)
    return figure


def is_plain(row: Row) -> bool:
    """Whether a row has no padding and as many heads of K as of Q."""
    return row.padding == 0 and row.group == 1


def lines(timed: Iterable[Timed], x: Callable[[Row], float]) -> Lines:
    """The points of each provider that was timed, by rising x; of twins (two presets) the last."""
    points: dict[str, dict[float, tuple[float, float, float, float]]] = {}
    for each in timed:
        for name, outcome in each.ok().items():
            if outcome.ms is not None:
                work, at, ms = each.row.flops * 1e-9, x(each.row), outcome.ms
                points.setdefault(name, {})[at] = (at, work / ms.median, work / ms.q3, work / ms.q1)
    return {name: [of[at] for at in sorted(of)] for name, of in points.items()}


def _panel(axes: Axes, results: Results, timed: list[Timed], x: Callable[[Row], float], ceiling: float | None) -> None:
    drawn = lines(timed, x)
    top = max([rate for points in drawn.values() for *_, rate in points] + ([ceiling] if ceiling else []))
    for name, points in drawn.items():
        look = style.look(name, results.ours)
        xs, medians, slow, fast = zip(*points, strict=True)
        axes.fill_between(xs, slow, fast, color=look.colour, alpha=0.15, linewidth=0)
        said = f"{results.labels[name]}  {medians[-1]:.3g}"
        look.draw(axes, xs, medians, said)
    if ceiling:
        axes.axhline(ceiling, color=style.GREY, lw=1, ls=(0, (4, 3)), label=f"matrix product  {ceiling:.3g}")
    axes.set_ylim(0, 1.06 * top)
    axes.set_ylabel("TFLOP/s")
    axes.set_xscale("log", base=2)
    style.legend(axes)


def _method(results: Results, direction: str) -> str:
    counts = "causal counts half" if direction == "forward" else "2.5 times the FLOPs of the forward, causal half"
    return f"median of {results.settings.get('rounds')} interleaved rounds, band: quartiles; {counts}"
