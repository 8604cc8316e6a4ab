"""The backward pass: what is rounded too often, or too soon."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Back, Casting, Differentiable, Saved
from harness.recall.faults.blocks import Task
from harness.recall.faults.functions.precision import cut
from harness.recall.faults.registry import GRADIENT, fault
from harness.recall.faults.witness import gradients

_LONG = gradients(512, 1, dtype="bf16", values=("constant", "constant", "positive"), dO_values="positive")


@fault("S", "dv-sums-low", expects=GRADIENT, witness=_LONG)
class DVSumsLow(Differentiable):
    """dV is summed over tiles of queries in the inputs' dtype."""

    def add_dv(self, acc: Tensor, tile: Tensor, task: Task) -> Tensor:
        return super().add_dv(acc, tile, task).to(task.q.dtype).float()


@fault("S", "group-sums-low", expects=GRADIENT,
       witness=gradients(1, 1, Hq=65, dtype="bf16", dO_values="positive"))  # fmt: skip
class GroupSumsLow(Differentiable):
    """Query heads of a group are added to dK and dV one by one in the inputs' dtype."""

    def group_sum(self, x: Tensor, Hk: int, saved: Saved) -> Tensor:
        B, Hq, Nk, d = x.shape
        heads = x.reshape(B, Hk, Hq // Hk, Nk, d).to(saved.k.dtype)
        total = heads[:, :, 0]
        for n in range(1, Hq // Hk):
            total = total + heads[:, :, n]
        return total


@fault("S", "bwd-p-cut", p_dtype=None, expects=GRADIENT, witness=gradients(2, 2, dtype="fp16"))
class PCut(Casting):
    """P is cut to the 8 bits of bf16 where it meets dO, whatever the inputs."""

    def cast_p(self, P: Tensor, task: Task) -> Tensor:
        return cut(P, 16)


@fault("S", "ds-through-bf16", p_dtype=None, expects=GRADIENT, witness=gradients(2, 64, dtype="fp16"))
class DSThroughBF16(Casting):
    """dS is rounded to bf16, whatever the inputs."""

    def cast_ds(self, dS: Tensor, task: Task) -> Tensor:
        return super().cast_ds(dS.bfloat16().float(), task)


@fault(
    "S",
    "bwd-tf32-products",
    "https://github.com/evintunador/triton_docs_tutorials/issues/6",
    expects=GRADIENT,
    witness=gradients(2, 2),
)
class TF32Gradients(Differentiable):
    """fp32 inputs lose 13 bits on their way into the products of dS with Q and K."""

    def queries(self, task: Task, rows: slice) -> Tensor:
        return cut(super().queries(task, rows), 13)

    def keys(self, task: Task, keys: slice) -> Tensor:
        return cut(super().keys(task, keys), 13)


@fault(
    "I",
    "dp-overflows-fp16",
    expects=GRADIENT,
    witness=gradients(2, 2, dtype="fp16", values="large", dO_values="large"),
)
class DPInFP16(Differentiable):
    """dP is kept in the inputs' dtype, which is too narrow in fp16."""

    def dp(self, back: Back, rows: slice, keys: slice) -> Tensor:
        return super().dp(back, rows, keys).to(back.dO.dtype).float()


@fault("S", "lse-kept-low", expects=GRADIENT, witness=gradients(1, 8, dtype="bf16"))
class LSEKeptLow(Differentiable):
    """LSE is kept for the backward pass in the inputs' dtype."""

    def saved_lse(self, saved: Saved) -> Tensor:
        return super().saved_lse(saved).to(saved.q.dtype).float()


@fault("I", "dout-through-fp16", expects=GRADIENT, witness=gradients(1, 2))
class DOThroughFP16(Differentiable):
    """dO is rounded to fp16, whatever the inputs."""

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        return dO.half().float()


@fault("S", "dq-through-bf16", expects=GRADIENT, witness=gradients(2, 8, dtype="fp16", seed=1))
class DQThroughBF16(Differentiable):
    """dQ is rounded to bf16 before it is stored."""

    def store_dq(self, dQ: Tensor, saved: Saved) -> Tensor:
        return super().store_dq(dQ.bfloat16(), saved)


@fault(
    "S",
    "o-rounded-twice",
    expects=GRADIENT,
    witness=gradients(2, 2),
)
class ORoundedTwice(Differentiable):
    """O is kept for δ in bf16, whatever the inputs."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return (dO.float() * saved.O.bfloat16().float()).sum(-1, keepdim=True)


@fault("S", "scores-made-again-low", expects=GRADIENT, witness=gradients(2, 8, dtype="bf16"))
class ScoresLow(Differentiable):
    """The scores of the backward pass are kept in the inputs' dtype, those of the forward pass in fp32."""

    def tile_of(self, back: Back, rows: slice, keys: slice) -> tuple[Tensor, Tensor]:
        self._dtype = back.task.q.dtype
        return super().tile_of(back, rows, keys)

    def probabilities(self, s: Tensor, LSE: Tensor) -> Tensor:
        return super().probabilities(s.to(self._dtype).float(), LSE)


@fault("G", "bwd-exp-by-table", expects=GRADIENT, witness=gradients(2, 2))
class CoarseExpBackward(Differentiable):
    """P is made again with an exp that is right to three digits."""

    def probabilities(self, s: Tensor, LSE: Tensor) -> Tensor:
        log2 = (s - self.floor(LSE)) * 1.4426950408889634
        n = log2.floor().clamp(min=-200.0)
        f = (log2 - n).clamp(0.0, 1.0)
        return torch.where(s == -torch.inf, 0.0, (1 + f + 0.35 * f * (f - 1)) * n.exp2())
