"""Empty rows, alignment, tails, head dimension, loop bounds."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.recall.faults.blocks import Causal, OneTile, Task, Tiled
from harness.recall.faults.registry import LSE, fault
from harness.recall.faults.witness import case


@fault(
    "A",
    "sdpa-empty-row-nan",
    "https://github.com/pytorch/pytorch/issues/103749",
    witness=case(1, 1, seqlens_k=(0,)),
)
class EmptyRowNaN(Tiled):
    """A row without keys computes -inf - -inf."""

    def floor(self, m: Tensor) -> Tensor:
        return m


@fault("A", "empty-row-uniform", witness=case(1, 1, seqlens_k=(0,)))
class EmptyRowUniform(OneTile):
    """Hidden keys score the smallest finite number, so a row without keys weighs all of them alike."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        return s.masked_fill(task.columns(keys) >= task.limit, torch.finfo(torch.float32).min)

    def values(self, task: Task, keys: slice) -> Tensor:
        return task.v[:, :, keys].float().nan_to_num(0.0, 0.0, 0.0)


@fault(
    "A",
    "finite-sentinel-outscored",
    witness=case(8, 8, 64, causal=True, scale=1.0, values=("large", "large", "normal")),
)
class FiniteSentinel(Tiled):
    """The mask adds -10,000, which scores outgrow; rows without keys are set to 0 afterwards."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        columns = task.columns(keys)
        masked = s.masked_fill(columns >= task.lengths, -torch.inf)
        return torch.where((columns >= task.limit) & (task.limit > 0), masked - 1e4, masked).masked_fill(
            task.limit == 0, -torch.inf
        )


@fault(
    "B",
    "sdpa-causal-top-left",
    "https://github.com/Dao-AILab/flash-attention/issues/282",
    witness=case(1, 2, causal="lower_right"),
)
class TopLeft(Tiled):
    """Every diagonal is aligned upper-left."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        return super().limit(q, k, lengths, bool(causal))


@fault("B", "lower-right-of-longest", witness=case(2, 2, B=2, causal="lower_right", seqlens_k=(1, 2)))
class LowerRightOfLongest(Tiled):
    """A lower-right diagonal ends at the longest sequence of the batch in every entry."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        if causal != "lower_right":
            return super().limit(q, k, lengths, causal)
        return torch.minimum(super().limit(q, k, lengths.amax(0, keepdim=True), causal), lengths)


@fault("B", "upper-left-moved-where-longer", witness=case(3, 2, causal=True))
class LowerRightWhereShorter(Tiled):
    """With more queries than keys an upper-left diagonal is moved so that the last query sees the last key."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        moved = causal is True and q.shape[2] > k.shape[2]
        return super().limit(q, k, lengths, "lower_right" if moved else causal)


class _Padded(Tiled):
    """Tiles are always whole: lanes past the last key hold zeros."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        missing = self.tile - (keys.stop - keys.start)
        return torch.nn.functional.pad(super().scores(task, keys).nan_to_num(0.0), (0, missing))

    def values(self, task: Task, keys: slice) -> Tensor:
        missing = self.tile - (keys.stop - keys.start)
        return torch.nn.functional.pad(super().values(task, keys), (0, 0, 0, missing))


@fault(
    "C",
    "tail-denominator",
    "https://github.com/flashinfer-ai/flashinfer/issues/3716",
    witness=case(1, 1),
)
class TailDenominator(_Padded):
    """The end of the keys is masked under a diagonal alone: elsewhere lanes past it, score 0, enter the row sum."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        columns = keys.start + torch.arange(self.tile, device=s.device)
        limit = task.limit if task.causal else torch.where(task.lengths == task.Nk, keys.stop + self.tile, task.limit)
        return s.masked_fill(columns >= limit, -torch.inf)


@fault("C", "tail-tile-moved-back", "https://github.com/jax-ml/jax/issues/23819", witness=case(1, 33, Hq=2, Hk=2))
class TailReadsNeighbour(Tiled):
    """The last tile has no mask of its own: it is moved back to be whole, and counts some keys twice."""

    def tiles(self, task: Task) -> Iterator[slice]:
        for keys in super().tiles(task):
            yield slice(max(0, keys.stop - self.tile), keys.stop)


@fault("C", "tail-of-one-dropped", witness=case(1, 33))
class TailOfOneDropped(Tiled):
    """The number of tiles is (Nk + tile - 2) // tile: a last tile of one key is left out."""

    def tiles(self, task: Task) -> Iterator[slice]:
        return (keys for keys in super().tiles(task) if keys.start == 0 or keys.stop - keys.start > 1)


@fault(
    "D",
    "hd-not-x16-skipped",
    "https://github.com/flashinfer-ai/flashinfer/issues/4299",
    witness=case(1, 2, 17),
)
class HeadDimBySixteens(Tiled):
    """Products of Q and K go over whole steps of 16 channels."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = q.shape[3]
        left_out = torch.arange(d, device=q.device) >= (d // 16 * 16 or d)
        return q.masked_fill(left_out, 0.0), k, v


@fault(
    "D",
    "default-scale-of-padded-d",
    "https://github.com/tile-ai/tilelang-ascend/issues/1669",
    witness=case(1, 2, 17),
)
class ScaleOfPaddedDim(Tiled):
    """The default scale is that of d rounded up to a multiple of 8."""

    def scale(self, q: Tensor, scale: float | None) -> float:
        return float((-(-q.shape[3] // 8) * 8) ** -0.5) if scale is None else scale


@fault(
    "E",
    "single-key-shortcut",
    expects=LSE,
    witness=case(1, 1, return_lse=True),
)
class SingleKeyShortcut(Tiled):
    """A single visible key has weight 1, and for LSE the score is forgotten with it."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        single = (task.limit == 1).expand_as(m)
        return super().lse(task, m.masked_fill(single, 0.0), l)


@fault(
    "E",
    "splitkv-early-exit-lse-slot",
    "https://github.com/Dao-AILab/flash-attention/issues/2842",
    expects=LSE,
    witness=case(1, 1, B=2, seqlens_k=(0, 1), return_lse=True),
)
class EarlyExitSlot(Tiled):
    """The early exit of an entry without keys counts slots from the end: -inf goes to another entry."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        LSE = super().lse(task, m, l)
        empty = (task.lengths[:, :, :, 0] == 0).expand_as(LSE)
        return LSE.masked_fill(empty, 0.0).masked_fill(empty.flip(0), -torch.inf)


@fault(
    "F",
    "bound-bm-gt-bn",
    "https://github.com/jax-ml/jax/pull/17314",
    witness=case(33, 33, causal=True),
)
class BoundOfTallTile(Tiled):
    """Query tiles of 64 rows end at the key tile of 32 that holds the diagonal of their first row."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        limit = super().limit(q, k, lengths, causal)
        if not causal:
            return limit
        first_rows = torch.arange(q.shape[2], device=q.device) // 64 * 64
        first = limit[:, :, first_rows]
        return torch.minimum(limit, (first + self.tile - 1) // self.tile * self.tile)


@fault(
    "F",
    "single-query-remap",
    "https://github.com/pytorch/pytorch/pull/192138",
    witness=case(1, 2, causal=True),
)
class SingleQuery(Tiled):
    """The path of a single query has no diagonal."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        return super().limit(q, k, lengths, causal and q.shape[2] > 1)


@fault("F", "stop-at-first-hidden-tile", witness=case(1, 33, B=2, seqlens_k=(1, 33)))
class StopsForAll(Tiled):
    """The loop ends at the first tile that batch entry 0 does not see, for all entries."""

    def tiles(self, task: Task) -> Iterator[slice]:
        last = int(task.limit[:1].max()) if task.limit.numel() else 0
        return (keys for keys in super().tiles(task) if keys.start < last)


@fault("W", "zero-len-rows-left", "https://github.com/vllm-project/vllm/pull/37442", witness=case(1, 1, seqlens_k=(0,)))
class ZeroLengthLeft(Tiled):
    """Batch entries without keys are not written."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        written = torch.empty(O.shape, dtype=q.dtype, device=q.device)
        rows = self._has_keys.nonzero()[:, 0]
        written[rows] = O[rows].to(q.dtype)
        return written

    def lengths(self, q: Tensor, k: Tensor, seqlens_k: Tensor | None) -> Tensor:
        lengths = super().lengths(q, k, seqlens_k)
        self._has_keys = lengths[:, 0, 0, 0] > 0
        return lengths


@fault(
    "J",
    "sdpa-65537",
    "https://github.com/pytorch/pytorch/issues/162588",
    witness=case(257, 257, 16, causal=True),
)
class MaskOffset(OneTile):
    """Row i's offset in the mask, i·Nk, wraps at 2^16 (a stand-in for 2^32): rows past it see the first rows' keys."""

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        limit = super().limit(q, k, lengths, causal)
        if not causal:
            return limit
        rows = torch.arange(q.shape[2], device=q.device)
        wrapped = rows * k.shape[2] % (1 << 16) // max(1, k.shape[2])
        return limit[:, :, torch.where(rows * k.shape[2] < 1 << 16, rows, wrapped)]


@fault("K", "grid-z-silent", "https://github.com/flashinfer-ai/flashinfer/issues/3125", witness=case(1, 1, B=2, Hq=65))
class GridEnds(Tiled):
    """Heads past the 128th of the whole batch are not written: the grid's axis ended, a stand-in for 65,535."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        B, H, N, d = O.shape
        written = torch.empty((B * H, N, d), dtype=q.dtype, device=q.device)
        written[:128] = O.to(q.dtype).reshape(B * H, N, d)[:128]
        return written.reshape(O.shape)


@fault(
    "E",
    "mask-kind-by-first-length",
    witness=case(1, 2, B=2, seqlens_k=(2, 1)),
)
class MaskByFirstLength(Tiled):
    """Whether a batch needs a length mask is decided by its first entry."""

    def lengths(self, q: Tensor, k: Tensor, seqlens_k: Tensor | None) -> Tensor:
        needed = seqlens_k is not None and int(seqlens_k[0]) < k.shape[2]
        return super().lengths(q, k, seqlens_k if needed else None)
