"""Classifies a case by its truth: which keys its rows see, and how often a running max would move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from oracles import Truth
from strategies.features import ROWS

Seen = Mapping[str, tuple[str, ...]]
"""The classes that a case falls into, by the name of their axis in `harness.campaign.coverage`."""

LEAST_TILE = 16
"""Keys in the smallest tile of tensor cores: the running max moves at most once in each."""


def seen_in(truth: Truth) -> Seen:
    """Return the classes of a case, from its truth."""
    return {"rescales": (rescales(truth),), "masked rows": _rows(truth), "empty rows": _empty_rows(truth)}


def rescales(truth: Truth) -> str:
    """Return how often the running max moves after the first tile, in the last row of the first head: an estimate."""
    W = truth.W[:1, :1, -1:].flatten()
    tiles = torch.split(W, LEAST_TILE)
    if len(tiles) < 2 or W.numel() == 0:
        return "one tile"
    running = torch.stack([tile.amax() for tile in tiles]).cummax(0).values
    moves = int((running.diff() > 0).sum())
    return "none" if moves == 0 else "in every tile" if moves == len(tiles) - 1 else "in some tiles"


def _rows(truth: Truth) -> tuple[str, ...]:
    """Return which kinds of ROWS the case has."""
    if truth.q.shape[2] == 0:
        return ()
    if truth.hidden is None:
        return ("every key",)
    Nk = truth.hidden.shape[-1]
    count = (~truth.hidden).sum(-1)
    if Nk == 0:
        return ("no key",)
    first, last = _ends(~truth.hidden)
    is_whole = last - first + 1 == count
    found = {
        "every key": count == Nk,
        "end hidden": is_whole & (first == 0) & (last < Nk - 1),
        "start hidden": is_whole & (first > 0) & (last == Nk - 1),
        "both ends hidden": is_whole & (first > 0) & (last < Nk - 1),
        "keys between hidden": (count > 0) & ~is_whole,
        "no key": count == 0,
    }
    return tuple(name for name in ROWS if bool((found[name] & ((count > 0) | (name == "no key"))).any()))


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the last key that each row sees."""
    whole = seen.to(torch.uint8)
    return whole.argmax(-1), seen.shape[-1] - 1 - whole.flip(-1).argmax(-1)


def _empty_rows(truth: Truth) -> tuple[str, ...]:
    """Return how many rows of a batch entry see no key."""
    if truth.hidden is None or truth.q.shape[2] == 0:
        return ("no row",)
    is_empty = truth.hidden.all(-1)
    entries = {(bool(entry.all()), bool(entry.any())) for entry in is_empty}
    return tuple("all rows" if every else "some rows" if some else "no row" for every, some in sorted(entries))
