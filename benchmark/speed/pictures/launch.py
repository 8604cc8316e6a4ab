"""The time of the host and of the device for a call of a small problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speed.pictures import style
from speed.results import Results, Timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Costs = dict[str, tuple[float, float]]
"""By provider: microseconds of the host to enqueue a call, and of the device to run it."""


def launch(results: Results, direction: str = "forward") -> Figure | None:
    """A panel for each N, a bar for each provider; None where enqueueing was not timed."""
    of_pass = [t for t in results.of("launch", "launch_backward", "grid") if t.row.direction == direction]
    timed = {t.row.N: t for t in of_pass if costs(t) and not t.row.causal}
    if not timed:
        return None
    shortest = costs(timed[min(timed)])
    names = [name for name in results.labels if any(name in costs(t) for t in timed.values())]
    names.sort(key=lambda name: -shortest.get(name, (0.0, 0.0))[0])
    margins = style.Margins(left=1.75, right=0.0)
    figure, (across,) = style.panels(1, len(timed), (2.2, 0.29 * len(names) + 0.3), margins)
    most = max(host for t in timed.values() for host, _ in costs(t).values())
    for axes, N in zip(across, sorted(timed), strict=True):
        style.panel_title(axes, f"N {style.tokens(N)}")
        _panel(axes, results, costs(timed[N]), names, most)
        axes.set_yticks(range(len(names)), [results.labels[name] for name in names] if axes is across[0] else [])
    row = timed[min(timed)].row
    below = f"{row.dtype}, B {row.B}, {row.Hq} heads, d {row.d} · {style.machine_line(results.machine)}"
    what = "a call" if direction == "forward" else "a backward"
    said = f"Launch overhead: the host's time to enqueue {what} (bar), the device's to run it (tick)"
    style.title(figure, said, below)
    return figure


def costs(timed: Timed) -> Costs:
    """The costs of each provider whose enqueueing was timed."""
    found: Costs = {}
    for name, outcome in timed.ok().items():
        if outcome.host_ms is not None and outcome.ms is not None:
            found[name] = (1e3 * outcome.host_ms.median, 1e3 * outcome.ms.median)
    return found


def _panel(axes: Axes, results: Results, known: Costs, names: list[str], most: float) -> None:
    for y, name in enumerate(names):
        if name in known:
            _bar(axes, y, *known[name], style.look(name, results.ours), 1.2 * most)
    axes.set_xlim(0, 1.35 * most)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("µs")


def _bar(axes: Axes, y: float, host: float, device: float, look: style.Look, most: float) -> None:
    """A bar with its number, and the tick of the device as far as it lies in the panel."""
    axes.barh(y, host, height=0.62, color=look.colour, alpha=0.95 if look.ours else 0.6)
    seen = device <= most
    if seen:
        axes.plot([device, device], [y - 0.42, y + 0.42], color=style.INK, lw=1.8)
    font = {"va": "center", "fontsize": style.SMALL, "color": style.INK, "weight": "bold" if look.ours else "normal"}
    axes.annotate(f"{host:.0f}", (max(host, device if seen else 0), y), (5, 0), textcoords="offset points").set(**font)
