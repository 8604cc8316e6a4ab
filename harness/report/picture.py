"""A heat map drawn as an inline SVG, with its numbers told in words beside it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from harness.judging.heat import HeatMap
from harness.report.markup import Html, element, joined

LIMITS = (1 / 64, 1 / 4, 1.0, 8.0, 256.0, 65536.0)
"""Upper limits of the levels of colour, in units of the budget; two more are for all that is larger, and for inf."""

LEVELS = ("to 1/64", "to 1/4", "to 1: within budget", "to 8", "to 256", "to 65,536", "more", "NaN, inf or no budget")

SIDE = 320
"""Width and height of a plot that has many cells."""

LEAST_SIDE, MOST_SIDE = 10, 26
"""Of a cell."""

LEFT, TOP, BOTTOM, RIGHT = 46, 8, 40, 10
LABEL_SPACE = 26


def level(ratio: float) -> int:
    """Which colour an error/budget has."""
    return len(LEVELS) - 1 if ratio == float("inf") else bisect_left(LIMITS, ratio)


def draw(found: HeatMap, label: str) -> Html:
    """The map as an image; `label` is what it is called to whoever cannot see it, before what it shows."""
    rows, columns = len(found.cells), len(found.cells[0])
    size = (_side(rows), _side(columns))
    height, width = rows * size[0], columns * size[1]
    frame = element("rect", x=LEFT, y=TOP, width=width, height=height, class_="frame")
    axes = [*_ticks(found, size), *_titles(found, height, width)]
    view = f"0 0 {max(LEFT + width + RIGHT, 150)} {TOP + height + BOTTOM}"
    parts = joined([*_cells(found, size), *axes, frame])
    width_of_all = view.split()[2]
    return element("svg", parts, viewBox=view, width=width_of_all, role="img", aria_label=f"{label}. {words(found)}")


def words(found: HeatMap) -> str:
    """What the map shows, in two sentences."""
    row_cell, column_cell = found.cell
    cells = "one element each" if found.cell == (1, 1) else f"{row_cell} by {column_cell} each"
    what = f"{_name(found)}: {found.shape[0]} by {found.shape[1]} ({_axis(found)}), in cells of {cells}."
    return f"{what} {_extent(found)}"


def _name(found: HeatMap) -> str:
    head = "" if found.head is None else f", head {found.head}"
    return f"{found.tensor} of batch entry {found.batch}{head}"


def _axis(found: HeatMap) -> str:
    if found.tensor == "LSE":
        return "rows by heads"
    return "keys by columns of d" if found.tensor in ("dK", "dV") else "rows by columns of d"


def _extent(found: HeatMap) -> str:
    over = found.over
    if not over:
        return f"No cell is over budget; the largest error/budget is {found.worst:.3g}."
    all_cells = len(found.cells) * len(found.cells[0])
    worst = f"the largest error/budget is {found.worst:.3g}"
    if len(over) == all_cells:
        return f"All of it is over budget; {worst}."
    rows = _range(_down(found), [i for i, _ in over], found.cell[0], found.shape[0])
    columns = _range(_across(found), [j for _, j in over], found.cell[1], found.shape[1])
    are = "cell is" if len(over) == 1 else "cells are"
    return f"{len(over)} of {all_cells} {are} over budget, in {rows} and {columns}; {worst}."


def _down(found: HeatMap) -> str:
    return "key" if found.tensor in ("dK", "dV") else "row"


def _across(found: HeatMap) -> str:
    return "head" if found.tensor == "LSE" else "column"


def _range(what: str, places: Sequence[int], cell: int, size: int) -> str:
    first, last = min(places) * cell, min((max(places) + 1) * cell, size) - 1
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"


def _side(cells: int) -> int:
    return min(max(SIDE // cells, LEAST_SIDE), MOST_SIDE)


def _cells(found: HeatMap, size: tuple[int, int]) -> Iterator[Html]:
    """One path a colour, of runs of cells that share it: a page may hold many maps."""
    paths: dict[int, list[str]] = {}
    for i, row in enumerate(found.cells):
        for start, length, colour in _runs([level(ratio) for ratio in row]):
            run = f"M{LEFT + start * size[1]} {TOP + i * size[0]}h{length * size[1]}v{size[0]}h-{length * size[1]}z"
            paths.setdefault(colour, []).append(run)
    for colour, runs in sorted(paths.items()):
        yield element("path", class_=f"h{colour}", d="".join(runs))


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Start, length and value of each run of equal values."""
    start = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            yield start, end - start, values[start]
            start = end


def _ticks(found: HeatMap, size: tuple[int, int]) -> Iterator[Html]:
    """Index and line at every so many cells, always at a power of 2, where the edges of tiles are."""
    height, width = len(found.cells) * size[0], len(found.cells[0]) * size[1]
    for i in range(0, len(found.cells), _step(size[0])):
        y = TOP + i * size[0]
        yield element("text", str(i * found.cell[0]), x=LEFT - 6, y=y + 9, text_anchor="end")
        yield element("path", d=f"M{LEFT} {y}h{width}", class_="edge") if i else Html("")
    for j in range(0, len(found.cells[0]), _step(size[1])):
        x = LEFT + j * size[1]
        yield element("text", str(j * found.cell[1]), x=x + 1, y=TOP + height + 14)
        yield element("path", d=f"M{x} {TOP}v{height}", class_="edge") if j else Html("")


def _step(side: int) -> int:
    step = 1
    while step * side < LABEL_SPACE:
        step *= 2
    return step


def _titles(found: HeatMap, height: int, width: int) -> Iterator[Html]:
    y = TOP + height / 2
    yield element("text", _down(found), x=12, y=y, transform=f"rotate(-90 12 {y})", text_anchor="middle")
    yield element("text", _across(found), x=LEFT, y=TOP + height + 32)
