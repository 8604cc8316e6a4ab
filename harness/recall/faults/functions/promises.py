"""Functions that are right within the budget but not to the bit, as they declare: only a relation detects them."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.recall.faults.blocks import Task, Tiled
from harness.recall.faults.registry import fault
from harness.recall.faults.witness import case
from strategies import AttentionCase, Features, Geometry, TensorSpec


def _tiles_of(size: int, Nk: int) -> Iterator[slice]:
    return (slice(start, min(start + size, Nk)) for start in range(0, Nk, size))


@fault(
    "Q",
    "tile-from-the-batch",
    "https://github.com/Dao-AILab/flash-attention/issues/1936",
    exact=("batch_invariant",),
    relation="alone_as_in_batch",
    witness=case(3, 65, B=2),
)
class TileFromBatch(Tiled):
    """Tiles of keys are wider where the batch is larger: a batch entry alone has other bits, against the promise."""

    def tiles(self, task: Task) -> Iterator[slice]:
        return _tiles_of(16 if task.q.shape[0] == 1 else 64, task.Nk)


@fault(
    "N",
    "tile-from-the-group",
    exact=("gqa_invariant",),
    relation="repeated_kv",
    witness=case(3, 65, Hq=2),
)
class TileFromGroup(Tiled):
    """Groups of query heads take wider tiles: heads of K and V repeated give other bits, against the promise."""

    _group = 1

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        self._group = Hq // x.shape[1]
        return super().per_query_head(x, Hq)

    def tiles(self, task: Task) -> Iterator[slice]:
        return _tiles_of(16 if self._group == 1 else 64, task.Nk)


_CAUSAL = AttentionCase(Geometry(Nq=5, Nk=9, d=16), features=Features(causal=True))


@fault("B", "max-over-hidden-keys", exact=("mask_invariant",), relation="causal_prefix", witness=_CAUSAL)
class MaxOverHidden(Tiled):
    """The running max takes in keys that a row does not see: right within rounding, and they move the bits."""

    tile = 1 << 30

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        self._largest = s.nan_to_num(-torch.inf, 0.0).amax(-1, keepdim=True).clamp(max=1.0)
        return super().hide(task, s, keys)

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        seen = super().new_max(m, s)
        return torch.where(seen.abs() < 1.0, torch.maximum(seen, self._largest), seen)


@fault(
    "G",
    "one-key-not-weight-one",
    exact=("unit_weight",),
    relation="single_key",
    witness=AttentionCase(Geometry(Nq=64, d=16), v=TensorSpec(seed=1)),
)
class NotWeightOne(Tiled):
    """The max is rounded up to a whole number, so a row that sees one key divides that key's weight by itself."""

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        return super().new_max(m, s).ceil()
