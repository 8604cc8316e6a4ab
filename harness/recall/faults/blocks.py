"""A correct tiled attention in torch, each step of it a method that a planted fault may replace."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.recall.faults.registry import ALIGNMENTS
from strategies.tensors import memory_of

Output = Tensor | tuple[Tensor, Tensor]
Causal = bool | str


@dataclass(frozen=True)
class Task:
    """What there is to compute.

    q (B, Hq, Nq, d); k and v (B, Hq, Nk, d), repeated for each query head. lengths (B, 1, 1, 1): keys of each batch
    entry. limit, broadcasts to (B, Hq, Nq, 1): row i sees the keys j < limit[i].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: Tensor
    limit: Tensor
    scale: float
    causal: Causal

    @property
    def Nq(self) -> int:
        """Queries."""
        return self.q.shape[2]

    @property
    def Nk(self) -> int:
        """Keys, the padding counted in."""
        return self.k.shape[2]

    def columns(self, keys: slice) -> Tensor:
        """Positions of some keys."""
        return torch.arange(keys.start, keys.stop, device=self.q.device)

    def part(self, keys: slice) -> Task:
        """The same task over some of the keys alone."""
        size = keys.stop - keys.start
        lengths, limit = ((x - keys.start).clamp(0, size) for x in (self.lengths, self.limit))
        return replace(self, k=self.k[:, :, keys], v=self.v[:, :, keys], lengths=lengths, limit=limit)


class Tiled:
    """Online softmax over tiles of keys, all rows at once, in fp32; natural exponentials, P not cast.

    It says that it has no gradients: `backward_blocks.Differentiable` has.
    """

    __flashattest__: dict[str, Any] = {"alignments": ALIGNMENTS, "p_dtype": "fp32", "differentiable": False}  # noqa: RUF012
    tile = 32

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: Causal = False,
        scale: float | None = None,
        seqlens_k: Tensor | None = None,
        return_lse: bool = False,
    ) -> Output:
        """Attention of q (B, Hq, Nq, d) over k and v (B, Hk, Nk, d), and LSE (B, Hq, Nq) where it is asked for."""
        q, k, v = self.inputs(q, k, v)
        O, LSE = self.attend(self.task(q, k, v, causal, scale, seqlens_k))
        O = self.store(O, q)
        return (O, LSE) if return_lse else O

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors as the kernel addresses them."""
        return q, k, v

    def task(
        self, q: Tensor, k: Tensor, v: Tensor, causal: Causal, scale: float | None, seqlens_k: Tensor | None
    ) -> Task:
        """The arguments made explicit."""
        lengths = self.lengths(q, k, seqlens_k)
        limit = self.limit(q, k, lengths, causal)
        k, v = (self.per_query_head(x, q.shape[1]) for x in (k, v))
        return Task(q, k, v, lengths, limit, self.scale(q, scale), causal)

    def lengths(self, q: Tensor, k: Tensor, seqlens_k: Tensor | None) -> Tensor:
        """Keys of each batch entry, (B, 1, 1, 1)."""
        if seqlens_k is None:
            return torch.full((q.shape[0], 1, 1, 1), k.shape[2], device=q.device)
        return seqlens_k.long()[:, None, None, None]

    def limit(self, q: Tensor, k: Tensor, lengths: Tensor, causal: Causal) -> Tensor:
        """The first key that each row does not see."""
        if not causal:
            return lengths
        rows = torch.arange(q.shape[2], device=q.device)[:, None]
        shift = lengths - q.shape[2] if causal == "lower_right" else 0
        return torch.minimum(rows + 1 + shift, lengths).clamp(min=0)

    def scale(self, q: Tensor, scale: float | None) -> float:
        """The factor of the scores."""
        return float(q.shape[3] ** -0.5) if scale is None else scale

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        """K or V with each head repeated for its group of query heads."""
        return x.repeat_interleave(Hq // x.shape[1], dim=1)

    def tiles(self, task: Task) -> Iterator[slice]:
        """The tiles of keys in the order of their visit."""
        for start in range(0, task.Nk, self.tile):
            yield slice(start, min(start + self.tile, task.Nk))

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        """O and LSE in fp32."""
        m = self.first_max(task)
        l = torch.zeros_like(m)
        acc = torch.zeros(task.q.shape, dtype=torch.float32, device=task.q.device)
        for keys in self.tiles(task):
            m, l, acc = self.step(task, keys, m, l, acc)
        return self.output(acc, l), self.lse(task, m, l)

    def first_max(self, task: Task) -> Tensor:
        """The running max before the first key."""
        return torch.full((*task.q.shape[:3], 1), -torch.inf, device=task.q.device)

    def step(self, task: Task, keys: slice, m: Tensor, l: Tensor, acc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take one tile of keys in."""
        s = self.hide(task, self.scores(task, keys), keys)
        m_new = self.new_max(m, s)
        floor = self.floor(m_new)
        p, alpha = self.exp(s - floor), self.exp(m - floor)
        l = self.row_sum(l, alpha, p)
        acc = self.accumulate(acc, alpha, self.cast(p, task), self.values(task, keys))
        return m_new, l, acc

    def scores(self, task: Task, keys: slice) -> Tensor:
        """Scaled scores (B, Hq, Nq, keys)."""
        return self.product(task.q.float(), task.k[:, :, keys].float().mT) * task.scale

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        """-inf for the keys that a row does not see."""
        return s.masked_fill(task.columns(keys) >= task.limit, -torch.inf)

    def values(self, task: Task, keys: slice) -> Tensor:
        """V in fp32, 0 past the lengths: there, 0 weights would meet NaN."""
        past_end = task.columns(keys)[:, None] >= task.lengths
        return task.v[:, :, keys].float().masked_fill(past_end, 0.0)

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        """The running max with this tile."""
        return torch.maximum(m, s.amax(-1, keepdim=True))

    def floor(self, m: Tensor) -> Tensor:
        """What is subtracted: 0 for a row that has seen no key, since -inf - -inf is NaN."""
        return m.masked_fill(m == -torch.inf, 0.0)

    def exp(self, x: Tensor) -> Tensor:
        """Weights from shifted scores."""
        return x.exp()

    def cast(self, p: Tensor, task: Task) -> Tensor:
        """P as it meets V."""
        return p

    def row_sum(self, l: Tensor, alpha: Tensor, p: Tensor) -> Tensor:
        """The running sum with this tile."""
        return l * alpha + p.sum(-1, keepdim=True)

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        """The accumulator with this tile."""
        return acc * alpha + self.product(p, v)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """A @ b in fp32, of what the inputs or a cast gave."""
        return a @ b

    def output(self, acc: Tensor, l: Tensor) -> Tensor:
        """O in fp32: 0 in a row that sees no key."""
        return acc / l.masked_fill(l == 0, 1.0)

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        """LSE (B, Hq, Nq): -inf in a row that sees no key."""
        return (m + l.log()).squeeze(-1)

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        """O in q's dtype."""
        return O.to(q.dtype)


class OneTile(Tiled):
    """The same over one tile of all keys: a plain softmax."""

    tile = 1 << 30


class SplitKeys(Tiled):
    """The keys in parts, each by itself, merged by their LSE."""

    parts = 3

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        """O and LSE of all parts together."""
        found = [super(SplitKeys, self).attend(part) for part in self.split(task)]
        return self.merge([O for O, _ in found], [LSE for _, LSE in found])

    def split(self, task: Task) -> list[Task]:
        """Parts of unequal size: the last may be short or empty."""
        size = math.ceil(task.Nk / self.parts)
        starts = [min(size * n, task.Nk) for n in range(self.parts)]
        return [task.part(slice(start, min(start + size, task.Nk))) for start in starts]

    def merge(self, outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Weigh each part by its share exp(LSE_part - LSE); a row that no part sees stays 0."""
        LSE = torch.stack(list(lses)).logsumexp(0)
        shares = [self.share(part, LSE) for part in lses]
        O = torch.stack([share * O for share, O in zip(shares, outputs, strict=True)]).sum(0)
        return O, LSE

    def share(self, part: Tensor, LSE: Tensor) -> Tensor:
        """The weight of a part, (B, Hq, Nq, 1)."""
        return (part - self.floor(LSE)).exp()[..., None]


def reread(x: Tensor, strides: Sequence[int], offset: int | None = None) -> Tensor:
    """The memory of a tensor under other strides (in elements): NaN where they leave its storage."""
    first = x.storage_offset() if offset is None else offset
    reach = first + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1
    memory = memory_of(x)
    room = memory.new_full((max(0, reach - memory.numel()),), float("nan"))
    return torch.cat((memory, room)).as_strided(x.shape, tuple(strides), first)


def dense_strides(x: Tensor) -> tuple[int, int, int, int]:
    """Strides that a contiguous tensor of this shape would have."""
    _, H, N, d = x.shape
    return (H * N * d, N * d, d, 1)
