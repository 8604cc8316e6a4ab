"""Heat maps: error/budget over the rows and columns of a tensor, in cells that align with tiles."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from harness.errors import Refused
from harness.io.reading import Read, count, fields, index, maybe, number, several, text
from harness.judging.relations import RELATIONS, failed_claim
from harness.judging.relations.base import FailedCall
from harness.judging.verdict import Verdict, finite_or_text
from harness.running.attempt import Attempt
from oracles import error_over_budget
from strategies.spec import require

MOST_CELLS = 32
"""Maximum rows and columns of a map. A cell's size is a power of 2, as tiles are, so that no tile edge crosses one."""


PLANES = re.compile(r"O|LSE|d[A-Z]\w*")
"""The tensors that a map may show: an output or a gradient, by name."""


@dataclass(frozen=True)
class HeatMap:
    """The largest error/budget of each cell of a plane of `tensor`, rows first.

    tensor "O" and "dQ": Nq rows and d columns of one batch entry and head; "dK" and "dV": Nk rows. "LSE": Nq rows, the
    columns are the heads, and head is None. shape: rows and columns of the plane. cell: rows and columns of one cell.
    """

    tensor: str
    batch: int
    head: int | None
    shape: tuple[int, int]
    cell: tuple[int, int]
    cells: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        require(bool(PLANES.fullmatch(self.tensor)), f"A map is of O, LSE or a gradient (dQ), not {self.tensor!r}.")
        require(len(self.shape) == len(self.cell) == 2, "shape and cell of a map must be two whole numbers each.")
        require(min(*self.shape, *self.cell) >= 1, "shape and cell of a map must be at least 1.")
        rows, columns = (-(-size // cell) for size, cell in zip(self.shape, self.cell, strict=True))
        require(max(rows, columns) <= MOST_CELLS, f"A map has at most {MOST_CELLS} cells either way.")
        fits = len(self.cells) == rows and all(len(row) == columns for row in self.cells)
        require(fits, f"The cells of this map must be {rows} rows of {columns}.")
        require(all(ratio >= 0 for row in self.cells for ratio in row), "Error/budget is 0 or more.")

    @property
    def worst(self) -> float:
        """The largest error/budget."""
        return max(max(row) for row in self.cells)

    @property
    def over(self) -> list[tuple[int, int]]:
        """The cells over budget, as (row, column) of cells."""
        return [(i, j) for i, row in enumerate(self.cells) for j, ratio in enumerate(row) if ratio > 1]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "tensor": self.tensor,
            "batch": self.batch,
            "head": self.head,
            "shape": list(self.shape),
            "cell": list(self.cell),
            "cells": [[finite_or_text(ratio) for ratio in row] for row in self.cells],
        }

    @classmethod
    def from_json(cls, data: object) -> HeatMap:
        """Read what `to_json` wrote. Raises ValueError, in one sentence, for anything else."""
        return cls(**fields("A heat map", data, _FIELDS, optional=()))


_FIELDS: dict[str, Read] = {
    "tensor": text,
    "batch": count,
    "head": maybe(count),
    "shape": index,
    "cell": index,
    "cells": several(several(number)),
}


def heat_map(tried: Attempt, verdict: Verdict) -> HeatMap | None:
    """Make the map of a verdict's tensor, in its worst batch entry and head.

    None if the verdict is not about numbers, or the tensor has a wrong form.
    """
    ratio, is_lse = _ratios(tried, verdict), verdict.tensor == "LSE"
    if ratio is None or ratio.numel() == 0 or ratio.dim() != (3 if is_lse else 4):
        return None
    b, h = _worst_plane(ratio[..., None] if is_lse else ratio)
    plane = ratio[b].T if is_lse else ratio[b, h]
    return pool(plane, str(verdict.tensor), b, None if is_lse else h)


def pool(plane: Tensor, tensor: str, batch: int, head: int | None) -> HeatMap:
    """Make the map of a plane (rows, columns) of error/budget."""
    shape = (plane.shape[0], plane.shape[1])
    cell = (_cell(shape[0]), _cell(shape[1]))
    largest = max_pool2d(plane[None].double().cpu(), cell, cell, ceil_mode=True)[0].tolist()
    return HeatMap(tensor, batch, head, shape, cell, tuple(tuple(map(_round, row)) for row in largest))


def _ratios(tried: Attempt, verdict: Verdict) -> Tensor | None:
    """Return error/budget of each element that the verdict compared."""
    if verdict.tensor is None:
        return None
    if verdict.check in RELATIONS:
        return _ratios_of_claim(tried, verdict)
    got = tried.result.tensors.get(verdict.tensor)
    if got is None:
        return None
    return error_over_budget(got, tried.judgement.wanted(verdict.tensor), tried.judgement.budget(verdict.tensor))


def _ratios_of_claim(tried: Attempt, verdict: Verdict) -> Tensor | None:
    """Return error/budget of each element in the two calls that a relation compares."""
    try:
        claim = failed_claim(tried, verdict.check)
    except (Refused, FailedCall):
        return None
    if claim is None or claim.tensor != verdict.tensor:
        return None
    return error_over_budget(claim.got, claim.wanted.double(), claim.budget)


def _worst_plane(ratio: Tensor) -> tuple[int, int]:
    """Return the batch entry and head with the largest ratio; of equal ones, the one with most elements over budget."""
    peak, spread = ratio.amax((2, 3)), (ratio > 1).sum((2, 3))
    place = int(torch.where(peak == peak.max(), spread, -1).argmax())
    return divmod(place, ratio.shape[1])


def _cell(size: int) -> int:
    """Return the smallest power of 2 that gives at most MOST_CELLS cells."""
    cell = 1
    while -(-size // cell) > MOST_CELLS:
        cell *= 2
    return cell


def _round(ratio: float) -> float:
    """Round to three figures, but keep a ratio over budget over 1."""
    short = float(f"{ratio:.3g}") if math.isfinite(ratio) else math.inf
    return 1.01 if ratio > 1 >= short else short
