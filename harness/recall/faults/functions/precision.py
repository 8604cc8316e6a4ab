"""Precision, and what a compiler may do."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import torch
from torch import Tensor

from harness.recall.faults.blocks import OneTile, Task, Tiled
from harness.recall.faults.registry import fault
from harness.recall.faults.witness import case


def cut(x: Tensor, bits: int) -> Tensor:
    """fp32 numbers with the lowest bits cut off."""
    return (x.contiguous().view(torch.int32) >> bits << bits).view(torch.float32)


@fault(
    "S",
    "tf32-products",
    "https://github.com/evintunador/triton_docs_tutorials/issues/6",
    witness=case(1, 2),
)
class TF32(Tiled):
    """fp32 inputs lose 13 bits on their way into the product of Q and K."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        q, k = (cut(x.float(), 13) for x in (task.q, task.k[:, :, keys]))
        return q @ k.mT * task.scale


@fault("S", "accumulator-in-io-dtype", witness=case(1, 512, dtype="bf16", values=("constant", "constant", "positive")))
class LowAccumulator(Tiled):
    """The accumulator is kept in the dtype of the inputs."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        self._dtype = task.q.dtype
        return super().attend(task)

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return super().accumulate(acc, alpha, p, v).to(self._dtype).float()


@fault("S", "p-cut", p_dtype=None, witness=case(1, 2))
class CutP(Tiled):
    """P is cut to the 8 bits of bf16 toward zero, whatever the inputs."""

    def cast(self, p: Tensor, task: Task) -> Tensor:
        return cut(p, 16)


@fault("S", "exp-by-table", witness=case(1, 2))
class CoarseExp(Tiled):
    """exp is 2^n (1 + f + 0.35 f (f - 1)), right to three digits."""

    def exp(self, x: Tensor) -> Tensor:
        log2 = x * 1.4426950408889634
        n = log2.floor().clamp(min=-200.0)
        f = (log2 - n).clamp(0.0, 1.0)
        return (1 + f + 0.35 * f * (f - 1)) * n.exp2()


@fault("S", "softmax-in-io-dtype", witness=case(2, 8, dtype="bf16"))
class LowSoftmax(OneTile):
    """Scores are kept in the dtype of the inputs."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return super().scores(task, keys).to(task.q.dtype).float()


@fault("S", "row-sum-low", witness=case(1, 300, values=("constant", "constant", "constant")))
class LowRowSum(Tiled):
    """The running row sum is kept in bf16, where adding 1 to 256 changes nothing."""

    tile = 1

    def row_sum(self, l: Tensor, alpha: Tensor, p: Tensor) -> Tensor:
        return super().row_sum(l, alpha, p).bfloat16().float()


@fault("S", "output-rounded-twice", witness=case(1, 1, dtype="fp16"))
class RoundedTwice(Tiled):
    """O passes through bf16."""

    def store(self, O: Tensor, q: Tensor) -> Tensor:
        return O.bfloat16().to(q.dtype)


@fault(
    "T",
    "two-dots-one-acc",
    "https://github.com/triton-lang/triton/issues/10821",
    witness=case(64, 2, 160),
)
class SplitHeadDim(Tiled):
    """Above d = 128 the first of two products is lost where a query tile is 64 rows tall (stands for a miscompile)."""

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if q.shape[3] <= 128 or q.shape[2] < 64:
            return q, k, v
        return q.masked_fill(torch.arange(q.shape[3], device=q.device) < 128, 0.0), k, v


@fault(
    "T",
    "chained-dot-fragment",
    "https://github.com/triton-lang/triton/issues/1162",
    witness=case(1, 16),
)
class SwappedFragment(Tiled):
    """Between the two products the halves of P are swapped in tiles of exactly 16 keys (stands for a miscompile)."""

    def cast(self, p: Tensor, task: Task) -> Tensor:
        return p.roll(8, -1) if p.shape[-1] == 16 else p


@fault(
    "Y",
    "half-of-the-lanes",
    "https://github.com/flashinfer-ai/flashinfer/pull/3838",
    witness=case(1, 2),
)
class HalfTheLanes(Tiled):
    """The row sum is twice that of every second lane."""

    def row_sum(self, l: Tensor, alpha: Tensor, p: Tensor) -> Tensor:
        half = p[..., ::2].sum(-1, keepdim=True) * (p.shape[-1] / ((p.shape[-1] + 1) // 2))
        return l * alpha + half


@fault(
    "Y",
    "mean-of-block-0",
    "https://github.com/flashinfer-ai/flashinfer/pull/3838",
    witness=case(1, 33, values=("normal", "common_mean", "normal")),
)
class MeanOfBlockZero(Tiled):
    """K is centred tile by tile, and the product with its mean is that of the first tile for all."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        k = task.k.float().masked_fill(task.columns(slice(0, task.Nk))[:, None] >= task.lengths, 0.0)
        own, first = k[:, :, keys].mean(2, keepdim=True), k[:, :, : self.tile].mean(2, keepdim=True)
        return task.q.float() @ (k[:, :, keys] - own + first).mT * task.scale


@fault(
    "Y",
    "max-of-batch-0",
    "https://github.com/NVIDIA/TransformerEngine/issues/3216",
    witness=case(1, 1, 64, B=2, values="levels", scale=1.0, seed=6),
)
class LevelOfBatchZero(OneTile):
    """The max of batch entry 0 is subtracted in all: right while they are near, 0 / 0 or inf / inf elsewhere."""

    def floor(self, m: Tensor) -> Tensor:
        return super().floor(m)[:1].expand_as(m)

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, self.floor(m), l)
