"""Attention by tiles of keys, built in different ways."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.recall.faults.blocks import OneTile, SplitKeys, Task, Tiled
from harness.recall.faults.registry import control


@control("tiles-of-16")
class Narrow(Tiled):
    """Online softmax over tiles of 16 keys."""

    tile = 16


@control("tiles-of-128")
class Wide(Tiled):
    """Online softmax over tiles of 128 keys."""

    tile = 128


@control("tiles-in-reverse")
class Reverse(Tiled):
    """Tiles are visited from the last to the first."""

    def tiles(self, task: Task) -> Iterator[slice]:
        yield from reversed(list(super().tiles(task)))


@control("lazy-rescale")
class LazyRescale(Tiled):
    """The running max may lag by 8 log 2, which fp32 holds with ease: FlashAttention-4's conditional rescale."""

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        found = super().new_max(m, s)
        return torch.where(found - m < 8 * math.log(2), m, found)


@control("base-2")
class BaseTwo(Tiled):
    """exp2 of scores scaled by log2(e), which is folded into the shift alone."""

    def exp(self, x: Tensor) -> Tensor:
        return (x * math.log2(math.e)).exp2()


@control("p-in-io-dtype", p_dtype=None)
class CastP(Tiled):
    """P is rounded to the inputs' dtype before it meets V, as a kernel on tensor cores does."""

    def cast(self, p: Tensor, task: Task) -> Tensor:
        return p.to(task.q.dtype).float()


@control("split-keys")
class Split(SplitKeys):
    """The keys in three parts merged by their LSE, the last short or empty."""


@control("split-keys-unequal")
class SplitUnequal(SplitKeys):
    """One key by itself, then the rest, then an empty part."""

    def split(self, task: Task) -> list[Task]:
        cut = min(1, task.Nk)
        return [task.part(slice(a, b)) for a, b in ((0, cut), (cut, task.Nk), (task.Nk, task.Nk))]


@control("sentinel-below-the-row")
class Sentinel(OneTile):
    """Hidden keys score a finite number far below their row's lowest visible score, so that their weight is 0."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        is_hidden = (task.columns(keys) >= task.limit).expand_as(s)
        lowest = s.masked_fill(is_hidden, torch.inf).amin(-1, keepdim=True)
        sentinel = lowest - lowest.abs().clamp(min=1e6)
        return torch.where(is_hidden, sentinel, s).masked_fill(lowest == torch.inf, -torch.inf)


@control("log-domain")
class LogDomain(Tiled):
    """Each tile's own O is normalised, and merged into the one before by both LSE."""

    tile = 256

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        O = torch.zeros(task.q.shape, dtype=torch.float32, device=task.q.device)
        LSE = torch.full(task.q.shape[:3], -torch.inf, device=task.q.device)
        for keys in self.tiles(task):
            tile_O, tile_LSE = super().attend(task.part(keys))
            merged = torch.logaddexp(LSE, tile_LSE)
            shift = self.floor(merged)
            O = (LSE - shift).exp()[..., None] * O + (tile_LSE - shift).exp()[..., None] * tile_O
            LSE = merged
        return O, LSE


@control("folded-groups")
class FoldedGroups(Tiled):
    """The query heads of a group are folded into the rows of their KV head, and K and V are never repeated."""

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        return x

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        B, Hq, Nq, d = task.q.shape
        Hk = task.k.shape[1]
        q = task.q.reshape(B, Hk, Hq // Hk * Nq, d)
        limit = task.limit.expand(task.limit.shape[0], 1, Nq, 1).repeat(1, 1, Hq // Hk, 1)
        O, LSE = super().attend(Task(q, task.k, task.v, task.lengths, limit, task.scale, task.causal))
        return O.reshape(B, Hq, Nq, d), LSE.reshape(B, Hq, Nq)
