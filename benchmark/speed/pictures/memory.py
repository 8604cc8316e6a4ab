"""Memory of a call against N, with what grows as N and as N squared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speed.pictures import style
from speed.results import Results, Timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def memory(results: Results, direction: str = "forward") -> Figure | None:
    """The most that a call holds above its inputs, or a forward and its backward; None where it was not measured."""
    of_pass = [t for t in results.of("memory", "memory_backward") if t.row.direction == direction]
    timed = sorted(of_pass, key=lambda t: t.row.N)
    drawn = {name: _points(timed, name) for name in results.labels}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return None
    margins = style.Margins(right=2.3, top=0.95)
    figure, ((axes,),) = style.panels(1, 1, (5.4, 3.8), margins)
    axes.set_yscale("log", base=2)
    _guides(axes, drawn)
    for name, points in drawn.items():
        _line(axes, results, timed, name, points)
    style.token_axis(axes, [t.row.N for t in timed])
    style.byte_axis(axes.yaxis)
    style.legend(axes)
    row = timed[0].row
    below = f"{row.dtype}, B {row.B}, {row.Hq} heads, d {row.d}, full · {style.machine_line(results.machine)}"
    what = "a call takes" if direction == "forward" else "a forward and its backward take"
    style.title(figure, f"Memory that {what} above the inputs", below)
    return figure


def _points(timed: list[Timed], name: str) -> list[tuple[int, int]]:
    found = [(t.row.N, t.ok()[name].peak_bytes) for t in timed if name in t.ok()]
    return [(N, peak) for N, peak in found if peak]


def _line(axes: Axes, results: Results, timed: list[Timed], name: str, points: list[tuple[int, int]]) -> None:
    """A provider's line, which says where it found no more memory."""
    look = style.look(name, results.ours)
    xs, peaks = zip(*points, strict=True)
    more = next((t.row.N for t in timed if xs[-1] < t.row.N and _ran_out(t, name)), None)
    said = f"{results.labels[name]}  {style.in_bytes(peaks[-1])}"
    if more is not None:
        said += f", none left at {style.tokens(more)}"
    elif xs[-1] < timed[-1].row.N:
        said += f" at {style.tokens(xs[-1])}"
    look.draw(axes, xs, peaks, said)


def _ran_out(timed: Timed, name: str) -> bool:
    return any(o.provider == name and o.status == "out of memory" for o in timed.outcomes)


def _guides(axes: Axes, drawn: dict[str, list[tuple[int, int]]]) -> None:
    """Lines that grow as N and as N squared, from below the least and above the most that the shortest row takes."""
    firsts, lasts = [points[0] for points in drawn.values()], [points[-1] for points in drawn.values()]
    (N, low), high = min(firsts), max(peak for _, peak in firsts)
    longest, most = max(at for at, _ in lasts), max(peak for _, peak in lasts)
    for start, power, said, side in ((low / 1.6, 1, "grows as N", "left"), (high * 1.6, 2, "grows as N²", "right")):
        to = min(longest, N * (1.6 * most / start) ** (1 / power))
        axes.plot([N, to], [start, start * (to / N) ** power], color=style.GREY, lw=1, ls=(0, (4, 3)), zorder=1)
        middle = (N * to) ** 0.5
        at, offset = (middle, start * (middle / N) ** power), (0, 9 if power == 2 else -12)
        look = {"fontsize": style.SMALL, "color": style.GREY, "ha": side, "va": "center"}
        axes.annotate(said, at, offset, textcoords="offset points").set(**look)
