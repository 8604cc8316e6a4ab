"""Keys in parts, merged by LSE."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.recall.faults.blocks import SplitKeys, Task
from harness.recall.faults.registry import fault
from harness.recall.faults.witness import case


@fault("X", "merge-base-mismatch", "https://github.com/vllm-project/vllm/pull/47079", witness=case(1, 3))
class MergeBaseMismatch(SplitKeys):
    """The parts' LSE is natural, and the merge takes it for base 2."""

    def share(self, part: Tensor, LSE: Tensor) -> Tensor:
        return super().share(part * math.log(2), LSE * math.log(2))


@fault(
    "X",
    "merge-empty-part",
    "https://github.com/Dao-AILab/flash-attention/pull/978",
    witness=case(1, 2, seqlens_k=(1,)),
)
class MergeEmptyPart(SplitKeys):
    """A part without visible keys counts as one whose LSE is 0."""

    def merge(self, outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        seen = torch.stack(list(lses)).amax(0) > -torch.inf
        return super().merge(outputs, [LSE.masked_fill(LSE.isneginf() & seen, 0.0) for LSE in lses])


@fault("X", "merge-by-length", witness=case(1, 3))
class MergeByLength(SplitKeys):
    """Parts are weighed by their number of keys, not by their LSE."""

    def split(self, task: Task) -> list[Task]:
        parts = super().split(task)
        self._sizes = [part.limit.clamp(min=0) for part in parts]
        return parts

    def merge(self, outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        total = sum(self._sizes, torch.zeros_like(self._sizes[0])).clamp(min=1)
        O = sum((size / total * O for size, O in zip(self._sizes, outputs, strict=True)), torch.zeros_like(outputs[0]))
        return O, super().merge(outputs, lses)[1]


@fault("X", "merge-without-max", witness=case(1, 3, 64, values=("positive", "rising", "normal"), scale=1.0))
class MergeWithoutMax(SplitKeys):
    """The merge takes exp of each LSE itself: above 88 it overflows, below -103 every part vanishes."""

    def merge(self, outputs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        weights = torch.stack([LSE.exp() for LSE in lses])[..., None]
        total = weights.sum(0)
        O = (weights * torch.stack(list(outputs))).sum(0) / total.masked_fill(total == 0, 1.0)
        return O, super().merge(outputs, lses)[1]


@fault("X", "ring-stale-kv", "https://github.com/huggingface/diffusers/issues/14265", witness=case(1, 3))
class StaleKV(SplitKeys):
    """The second part reads the values of the first, where they are equally long."""

    def split(self, task: Task) -> list[Task]:
        first, second, *rest = super().split(task)
        if second.v.shape == first.v.shape and bool((second.lengths == second.Nk).all()):
            second = Task(second.q, second.k, first.v, second.lengths, second.limit, second.scale, second.causal)
        return [first, second, *rest]


@fault("X", "parts-cover-less", witness=case(1, 7))
class PartsCoverLess(SplitKeys):
    """Parts are Nk // 3 keys each: what is left over belongs to none."""

    def split(self, task: Task) -> list[Task]:
        size = task.Nk // self.parts if task.Nk > self.parts else task.Nk
        starts = [min(size * n, task.Nk) for n in range(self.parts)]
        return [task.part(slice(start, min(start + size, task.Nk))) for start in starts]


@fault("X", "causal-by-part", witness=case(3, 3, causal=True))
class CausalByPart(SplitKeys):
    """The diagonal starts again in each part."""

    def split(self, task: Task) -> list[Task]:
        parts = super().split(task)
        if not task.causal:
            return parts
        whole = parts[0].limit
        return [Task(p.q, p.k, p.v, p.lengths, torch.minimum(whole, p.lengths), p.scale, p.causal) for p in parts]
