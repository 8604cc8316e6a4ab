"""The running max, the row sum, the scale, overflow, LSE."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.recall.faults.blocks import OneTile, Task, Tiled
from harness.recall.faults.registry import LSE, fault
from harness.recall.faults.witness import case

_RISING = ("positive", "rising", "normal")


@fault(
    "G",
    "tile-max-alone",
    "https://github.com/tile-ai/tilelang/pull/1148",
    witness=case(1, 64, 64, values=("positive", "falling", "normal"), scale=1.0),
)
class TileMaxAlone(Tiled):
    """The running max is that of the tile alone: exp overflows where an earlier tile held the maximum."""

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        return s.amax(-1, keepdim=True)


@fault(
    "G",
    "lazy-rescale-cut",
    "https://github.com/Dao-AILab/flash-attention/pull/2713",
    witness=case(4, 64, values=_RISING, scale=0.2),
)
class LazyRescaleCut(Tiled):
    """The running max may lag by 14, and P saturates at fp16's 65504 = exp(11.1) while the row sum does not."""

    tile = 16

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        found = super().new_max(m, s)
        return torch.where(found - m < 14.0, m, found)

    def cast(self, p: Tensor, task: Task) -> Tensor:
        return p.clamp(max=65504.0)


@fault("G", "row-sum-keeps-old-max", witness=case(1, 64, values=_RISING))
class RowSumOldMax(Tiled):
    """The row sum is not rescaled when the max moves."""

    def row_sum(self, l: Tensor, alpha: Tensor, p: Tensor) -> Tensor:
        return l + p.sum(-1, keepdim=True)


@fault("G", "rescale-lags-one-tile", witness=case(1, 96))
class RescaleLags(Tiled):
    """The accumulator is rescaled by the factor of the tile before."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        self._before: Tensor | None = None
        return super().attend(task)

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        before, self._before = self._before, alpha
        return super().accumulate(acc, alpha if before is None else before, p, v)


@fault("G", "max-of-all-rows", witness=case(2, 2, values=("falling", "constant", "normal"), scale=1.0))
class MaxOfAllRows(Tiled):
    """All rows of a head share one running max, so a row far below the others vanishes."""

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        found = super().new_max(m, s)
        return found.amax(2, keepdim=True).expand_as(found) if found.numel() else found


@fault(
    "G",
    "max-from-zero",
    witness=case(1, 1, 64, values=("positive", "negative", "normal"), scale=1.0),
)
class MaxFromZero(Tiled):
    """The running max starts at 0: a row whose scores are all far below 0 vanishes."""

    def first_max(self, task: Task) -> Tensor:
        return torch.zeros((*task.q.shape[:3], 1), device=task.q.device)


@fault("G", "no-max-subtracted", witness=case(1, 2, 64, values=("positive", "rising", "normal"), scale=1.0))
class NoMax(Tiled):
    """No max is subtracted: scores above 88 overflow."""

    def new_max(self, m: Tensor, s: Tensor) -> Tensor:
        return torch.zeros_like(m)


@fault(
    "H",
    "negative-scale-sqrt",
    "https://github.com/pytorch/pytorch/pull/105202",
    witness=case(1, 1, scale=-1.0),
)
class ScaleBySquareRoots(Tiled):
    """The scale goes half to Q and half to K, by square roots: NaN where it is negative."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        root = math.sqrt(task.scale) if task.scale >= 0 else math.nan
        return (task.q.float() * root) @ (task.k[:, :, keys].float() * root).mT


@fault("H", "scale-or-default", witness=case(1, 2, scale=0.0))
class ScaleOrDefault(Tiled):
    """`scale or default`: a scale of 0 counts as none."""

    def scale(self, q: Tensor, scale: float | None) -> float:
        return scale or float(q.shape[3] ** -0.5)


@fault("H", "scale-after-mask", witness=case(2, 2, causal=True, scale=-1.0))
class ScaleAfterMask(OneTile):
    """Scores are scaled after the mask: -inf times a negative scale is +inf, times 0 it is NaN."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return task.q.float() @ task.k[:, :, keys].float().mT

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        return super().hide(task, s, keys) * task.scale


@fault(
    "I",
    "raw-scores-in-fp16",
    "https://github.com/microsoft/onnxruntime/pull/28198",
    witness=case(4, 8, 64, dtype="fp16", values=("large", "large", "normal")),
)
class RawScoresInHalf(Tiled):
    """fp16 inputs have fp16 scores before the scale: above 65504 they are inf."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        raw = task.q.float() @ task.k[:, :, keys].float().mT
        return (raw.half().float() if task.q.dtype is torch.float16 else raw) * task.scale


@fault(
    "I",
    "additive-mask-nan",
    "https://github.com/pytorch/pytorch/issues/101967",
    witness=case(1, 2, seqlens_k=(1,), past_end="nan"),
)
class AdditiveMask(Tiled):
    """The mask is added: a hidden NaN stays one."""

    def hide(self, task: Task, s: Tensor, keys: slice) -> Tensor:
        return s + torch.where(task.columns(keys) >= task.limit, -torch.inf, 0.0)


@fault(
    "W",
    "padding-value-nan",
    "https://github.com/Dao-AILab/flash-attention/issues/1745",
    witness=case(1, 2, seqlens_k=(1,), past_end="nan"),
)
class PaddingValues(Tiled):
    """V is read past the lengths: weight 0 times NaN."""

    def values(self, task: Task, keys: slice) -> Tensor:
        return task.v[:, :, keys].float()


@fault("I", "pv-overflows-fp16", witness=case(1, 64, dtype="fp16", values=("constant", "constant", "large"), seed=1))
class PVOverflows(Tiled):
    """Unnormalised P·V saturates at fp16's 65504 in fp16: long rows of large values pass it."""

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        found = super().accumulate(acc, alpha, p, v)
        return found.clamp(-65504.0, 65504.0) if self._is_half else found

    def cast(self, p: Tensor, task: Task) -> Tensor:
        self._is_half = task.q.dtype is torch.float16
        return p


@fault(
    "O",
    "lse-inf-where-empty",
    "https://github.com/Dao-AILab/flash-attention/pull/978",
    expects=LSE,
    witness=case(1, 1, seqlens_k=(0,), return_lse=True),
)
class PlusInf(Tiled):
    """A row without keys has LSE = +inf."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        LSE = super().lse(task, m, l)
        return LSE.masked_fill(LSE.isneginf(), torch.inf)


@fault(
    "O",
    "lse-in-base-2",
    "https://github.com/vllm-project/vllm/pull/47079",
    expects=LSE,
    witness=case(1, 2, return_lse=True),
)
class BaseTwo(Tiled):
    """LSE is in base 2."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, m, l) / math.log(2)


@fault("O", "lse-of-unscaled-scores", expects=LSE, witness=case(1, 2, return_lse=True))
class UnscaledLSE(Tiled):
    """The max goes into LSE without the scale."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, m / task.scale if task.scale else m, l)


@fault("O", "lse-in-low-precision", expects=LSE, witness=case(1, 2, dtype="bf16", return_lse=True))
class LowLSE(Tiled):
    """LSE passes through the dtype of q."""

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, m, l).to(task.q.dtype).float()


@fault(
    "V",
    "alibi-constant-shift",
    "https://github.com/vllm-project/vllm/pull/945",
    expects=LSE,
    witness=case(1, 1, return_lse=True),
)
class ConstantShift(Tiled):
    """A bias of 1/8 for every key of a row: O is what it was, LSE is not."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return super().scores(task, keys) + 0.125
