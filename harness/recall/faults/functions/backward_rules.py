"""The backward pass: terms that are missing, and factors that are wrong."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Back, Differentiable, Saved, of_rows
from harness.recall.faults.blocks import Task
from harness.recall.faults.controls.backward import SplitDifferentiable
from harness.recall.faults.registry import GRADIENT, fault
from harness.recall.faults.witness import gradients


@fault("G", "delta-missing", expects=GRADIENT, witness=gradients(1, 2))
class DeltaMissing(Differentiable):
    """dS = P∘dP: δ is left out."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return torch.zeros_like(super().delta(dO, saved))


@fault("G", "delta-added", expects=GRADIENT, witness=gradients(1, 2))
class DeltaAdded(Differentiable):
    """dS = P∘(dP + δ)."""

    def ds(self, P: Tensor, dP: Tensor, delta: Tensor) -> Tensor:
        return P * (dP + delta)


@fault("G", "delta-of-dout-squared", expects=GRADIENT, witness=gradients(1, 2))
class DeltaOfDO(Differentiable):
    """δ = rowsum(dO∘dO): the buffer of O was written again before δ was made."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return (dO.float() * dO.float()).sum(-1, keepdim=True)


@fault("O", "dlse-ignored", expects=GRADIENT, witness=gradients(1, 1, dLSE="contiguous"))
class DLSEIgnored(Differentiable):
    """The gradient of LSE is left out."""

    def from_lse(self, dLSE: Tensor | None, LSE: Tensor) -> Tensor:
        return super().from_lse(None, LSE)


@fault("O", "dlse-subtracted", expects=GRADIENT, witness=gradients(1, 1, dLSE="contiguous"))
class DLSESubtracted(Differentiable):
    """The gradient of LSE has the wrong sign."""

    def from_lse(self, dLSE: Tensor | None, LSE: Tensor) -> Tensor:
        return -super().from_lse(dLSE, LSE)


@fault(
    "O",
    "dlse-in-base-2",
    "https://github.com/vllm-project/vllm/pull/47079",
    expects=GRADIENT,
    witness=gradients(1, 1, dLSE="contiguous"),
)
class DLSEInBase2(Differentiable):
    """The gradient of LSE is taken for that of an LSE in base 2."""

    def from_lse(self, dLSE: Tensor | None, LSE: Tensor) -> Tensor:
        return super().from_lse(dLSE, LSE) / math.log(2)


@fault(
    "O",
    "bwd-lse-base-mismatch",
    "https://github.com/vllm-project/vllm/pull/47079",
    expects=GRADIENT,
    witness=gradients(1, 2),
)
class BaseMismatch(Differentiable):
    """P = exp2(S·log2(e) - LSE), with an LSE in base e."""

    def probabilities(self, s: Tensor, LSE: Tensor) -> Tensor:
        return (s * math.log2(math.e) - self.floor(LSE)).exp2()


@fault("H", "scale-missing-in-dq", expects=GRADIENT, witness=gradients(1, 2))
class DQNotScaled(Differentiable):
    """dQ = dS·K, without the scale."""

    def scaled_dq(self, dQ: Tensor, task: Task) -> Tensor:
        return dQ


@fault("H", "scale-missing-in-dk", expects=GRADIENT, witness=gradients(1, 2))
class DKNotScaled(Differentiable):
    """dK = dSᵀ·Q, without the scale."""

    def scaled_dk(self, dK: Tensor, task: Task) -> Tensor:
        return dK


@fault("H", "scale-sign-lost-in-dk", "https://github.com/pytorch/pytorch/pull/105202", expects=GRADIENT,
       witness=gradients(1, 2, scale=-1.0))  # fmt: skip
class SignLost(Differentiable):
    """dK is scaled by |scale|."""

    def scaled_dk(self, dK: Tensor, task: Task) -> Tensor:
        return dK * abs(task.scale)


@fault("H", "bwd-default-scale", expects=GRADIENT, witness=gradients(1, 2, scale=1.0))
class DefaultScale(Differentiable):
    """dQ has the default scale, whatever scale was asked for."""

    def scaled_dq(self, dQ: Tensor, task: Task) -> Tensor:
        return dQ * float(dQ.shape[3] ** -0.5)


@fault(
    "D",
    "bwd-scale-from-padded-d",
    "https://github.com/tile-ai/tilelang-ascend/issues/1669",
    expects=GRADIENT,
    witness=gradients(1, 2, 17),
)
class ScaleOfPadded(Differentiable):
    """The backward pass takes the default scale from a head dimension padded to a multiple of 16."""

    def back_task(self, saved: Saved) -> Task:
        padded = -(-saved.q.shape[3] // 16) * 16
        return super().back_task(saved if saved.scale is not None else replace(saved, scale=padded**-0.5))


@fault(
    "X",
    "ring-bwd-stale-kv",
    "https://github.com/huggingface/diffusers/issues/14265",
    expects=GRADIENT,
    witness=gradients(1, 33),
)
class StaleK(Differentiable):
    """Every step of dQ multiplies dS by the keys of the first tile."""

    def keys(self, task: Task, keys: slice) -> Tensor:
        return super().keys(task, slice(0, keys.stop - keys.start))


@fault("X", "merge-weights-detached", expects=GRADIENT, witness=gradients(1, 3))
class WeightsDetached(SplitDifferentiable):
    """Parts of the keys are merged by their LSE, which no gradient passes through."""

    def weighing(self, LSE: Tensor) -> Tensor:
        return LSE.detach()


@fault("G", "p-not-made-again", expects=GRADIENT, witness=gradients(1, 64, values="levels"))
class WeightsOfLastTile(Differentiable):
    """P is normalised by each tile's own sum: right where one tile holds all keys."""

    def tile_of(self, back: Back, rows: slice, keys: slice) -> tuple[Tensor, Tensor]:
        task = of_rows(back.task, rows)
        s = self.hide(task, self.scores(task, keys), keys)
        own = s.logsumexp(-1, keepdim=True)
        LSE = back.LSE.clone()
        LSE[:, :, rows] = torch.where(LSE[:, :, rows] == -torch.inf, -torch.inf, own)
        return super().tile_of(replace(back, LSE=LSE), rows, keys)
