"""A heat map as paths of an SVG, and what it shows in words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby

from harness.judging.heat import HeatMap

LIMITS = (1 / 64, 1 / 4, 1.0, 8.0, 256.0, 65536.0)
"""Upper limits of the levels of colour, in units of the budget; two more are for all that is larger, and for inf."""

LEVELS = ("to 1/64", "to 1/4", "to 1: within budget", "to 8", "to 256", "to 65,536", "more", "NaN, inf or no budget")

SIDE = 320
"""Width and height of a plot that has many cells, in pixels."""

LEAST_SIDE, MOST_SIDE = 10, 26
"""Of a cell, in pixels."""

LABEL_SPACE = 26
"""Between two labels of an axis, in pixels."""


def level(ratio: float) -> int:
    """The index of the colour of an error/budget."""
    return len(LEVELS) - 1 if ratio == float("inf") else bisect_left(LIMITS, ratio)


def side(cells: int) -> int:
    """Pixels of a cell's side, for this number of cells."""
    return min(max(SIDE // cells, LEAST_SIDE), MOST_SIDE)


def step(side: int) -> int:
    """Cells between two labels: a power of 2, as the edges of tiles are."""
    return 1 << (-(-LABEL_SPACE // side) - 1).bit_length()


def paths(found: HeatMap) -> list[tuple[int, str]]:
    """Colour and path of the cells that have it, in units of a cell; runs of cells in a row are one rectangle."""
    runs: dict[int, str] = {}
    for i, row in enumerate(found.cells):
        for colour, places in groupby(range(len(row)), key=lambda j: level(row[j])):
            start, *others = places
            length = 1 + len(others)
            runs[colour] = f"{runs.get(colour, '')}M{start} {i}h{length}v1h-{length}z"
    return sorted(runs.items())


def words(found: HeatMap) -> str:
    """What the map shows, in two sentences."""
    head = "" if found.head is None else f", head {found.head}"
    axes = {"LSE": "rows by heads", "dK": "keys by columns of d", "dV": "keys by columns of d"}
    rows, columns = found.shape
    cells = "one element each" if found.cell == (1, 1) else f"{found.cell[0]} by {found.cell[1]} each"
    name = f"{found.tensor} of batch entry {found.batch}{head}"
    shape = f"{rows} by {columns} ({axes.get(found.tensor, 'rows by columns of d')})"
    return f"{name}: {shape}, in cells of {cells}. {_extent(found)}"


def row_name(found: HeatMap) -> str:
    """What a row is."""
    return "key" if found.tensor in ("dK", "dV") else "row"


def column_name(found: HeatMap) -> str:
    """What a column is."""
    return "head" if found.tensor == "LSE" else "column"


def _extent(found: HeatMap) -> str:
    over, cells = found.over, len(found.cells) * len(found.cells[0])
    worst = f"the largest error/budget is {found.worst:.3g}"
    if not over:
        return f"No cell is over budget; {worst}."
    if len(over) == cells:
        return f"All of it is over budget; {worst}."
    rows = _range(row_name(found), [i for i, _ in over], found.cell[0], found.shape[0])
    columns = _range(column_name(found), [j for _, j in over], found.cell[1], found.shape[1])
    are = "cell is" if len(over) == 1 else "cells are"
    return f"{len(over)} of {cells} {are} over budget, in {rows} and {columns}; {worst}."


def _range(what: str, places: Sequence[int], cell: int, size: int) -> str:
    first, last = min(places) * cell, min((max(places) + 1) * cell, size) - 1
    return f"{what} {first}" if first == last else f"{what}s {first} to {last}"
