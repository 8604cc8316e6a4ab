"""The backward pass: what it keeps, what it writes to, and which gradients it is asked for."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Back, Differentiable, Gradients, Saved
from harness.recall.faults.blocks import Task
from harness.recall.faults.registry import GRADIENT, HISTORY, fault
from harness.recall.faults.witness import gradients

_ANY_CALL = GRADIENT | HISTORY


class _Keeps(Differentiable):
    """A function that keeps something from call to call."""

    def __init__(self) -> None:
        self._kept: dict[Any, Any] = {}


@fault(
    "R",
    "dq-buffer-not-zeroed",
    "https://github.com/triton-lang/triton/issues/6547",
    expects=_ANY_CALL,
    witness=gradients(1, 2, history=("other_values",)),
)
class DQAddsUp(_Keeps):
    """dQ is added to a buffer that is kept by shape, and holds the one before."""

    def dq(self, back: Back) -> Tensor:
        dQ = super().dq(back)
        buffer = self._kept.setdefault(dQ.shape, torch.zeros_like(dQ))
        return buffer.add_(dQ).clone()  # type: ignore[no-any-return]


@fault(
    "R",
    "bwd-key-without-causal",
    "https://github.com/triton-lang/triton/pull/4808",
    expects=_ANY_CALL,
    witness=gradients(1, 2, history=("other_causal",)),
)
class MaskKept(_Keeps):
    """The backward pass keeps `causal` by shape."""

    def back_task(self, saved: Saved) -> Task:
        causal = self._kept.setdefault((saved.q.shape, saved.k.shape), saved.causal)
        return super().back_task(replace(saved, causal=causal))


@fault("R", "bwd-key-without-scale", expects=_ANY_CALL, witness=gradients(1, 2, history=("other_scale",)))
class ScaleKept(_Keeps):
    """The scale of dQ is kept by head dimension."""

    def scaled_dq(self, dQ: Tensor, task: Task) -> Tensor:
        return dQ * self._kept.setdefault(dQ.shape[3], task.scale)  # type: ignore[no-any-return]


@fault("W", "dout-scaled-in-place", expects=frozenset({"input_mutated"}), witness=gradients(1, 2))
class DOScaled(Differentiable):
    """dO is scaled where it lies."""

    def back(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Back:
        back = super().back(saved, dO.clone(), dLSE)
        dO.mul_(back.task.scale)
        return back


@fault(
    "W",
    "delta-made-in-o",
    expects=GRADIENT | {"wrong_values", "not_finite", "output_aliased"},
    witness=gradients(1, 2),
)
class DeltaInO(Differentiable):
    """dO∘O is made where O lies, which is the caller's."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return saved.O.data.mul_(dO).float().sum(-1, keepdim=True)


@fault(
    "W",
    "second-backward-differs",
    expects=_ANY_CALL,
    relation="backward_twice",
    witness=gradients(1, 2),
)
class SecondBackward(Differentiable):
    """LSE and δ share memory: a second backward pass over the same graph takes δ for LSE."""

    def keep(self, O: Tensor, LSE: Tensor) -> dict[str, Any]:
        return {"LSE": LSE.clone()}

    def back(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Back:
        back = super().back(replace(saved, LSE=saved.kept["LSE"].clone()), dO, dLSE)
        saved.kept["LSE"].copy_(back.delta.squeeze(-1))
        return back


@fault(
    "W",
    "lse-overwritten-by-next-forward",
    expects=_ANY_CALL,
    relation="forward_between",
    witness=gradients(1, 2),
)
class SharedLSE(_Keeps):
    """LSE is kept for the backward pass in one buffer a shape: the next forward pass writes it again."""

    def keep(self, O: Tensor, LSE: Tensor) -> dict[str, Any]:
        buffer = self._kept.setdefault(LSE.shape, torch.zeros_like(LSE))
        return {"LSE": buffer.copy_(LSE)}

    def saved_lse(self, saved: Saved) -> Tensor:
        return super().saved_lse(replace(saved, LSE=saved.kept["LSE"]))


@fault(
    "R",
    "dk-buffer-reused",
    expects=frozenset({"output_aliased"}),
    relation="first_output_kept",
    witness=gradients(1, 2),
)
class DKReused(_Keeps):
    """dK is a buffer that the next backward pass of the same shape writes again."""

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        dK = super().store_dk(dK, saved)
        return self._kept.setdefault((dK.shape, dK.dtype), torch.zeros_like(dK)).copy_(dK)  # type: ignore[no-any-return]


@fault(
    "Q",
    "dq-order-varies",
    "https://github.com/Dao-AILab/flash-attention/pull/2481",
    expects=_ANY_CALL,
    relation="same_call_twice",
    witness=gradients(2, 96),
    exact=("deterministic",),
)
class DQOrderVaries(_Keeps):
    """dQ is summed in another order in every second call, as atomics do, against the promise."""

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        return iter(list(super().tiles_of_row(back, rows))[:: -1 if self._kept["calls"] % 2 else 1])

    def dq(self, back: Back) -> Tensor:
        self._kept["calls"] = self._kept.get("calls", 0) + 1
        return super().dq(back)


@fault(
    "Q",
    "pdl-race-delta",
    "https://github.com/Dao-AILab/flash-attention/pull/2481",
    expects=_ANY_CALL,
    witness=gradients(1, 2, history=("other_values", "other_scale")),
)
class DeltaRaces(_Keeps):
    """In every third backward pass δ is made before dO is there: of dO's first half alone."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        self._kept["calls"] = self._kept.get("calls", 0) + 1
        written = dO.shape[3] // 2 if self._kept["calls"] % 3 == 0 else dO.shape[3]
        return super().delta(dO * (torch.arange(dO.shape[3], device=dO.device) < written), saved)


@fault("W", "gradients-in-wrong-slots", expects=GRADIENT, witness=gradients(1, 2, needs=("v",)))
class WrongSlots(Differentiable):
    """Where K wants no gradient, V is handed that of K."""

    def backward(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Gradients:
        dQ, dK, dV = super().backward(replace(saved, needs=(saved.needs[0], True, True)), dO, dLSE)
        return (dQ, dK, dV) if saved.needs[1] else (dQ, None, dK)


@fault("W", "delta-only-with-dq", expects=GRADIENT, witness=gradients(1, 2, needs=("k",)))
class DeltaOnlyWithDQ(Differentiable):
    """δ is made in the pass for dQ, and is 0 where Q wants no gradient."""

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        return super().delta(dO, saved) * saved.needs[0]


@fault("W", "dkv-missing-without-dq", expects=GRADIENT, witness=gradients(1, 2, needs=("k", "v")))
class MissingWithoutDQ(Differentiable):
    """Where Q wants no gradient none is made at all."""

    def backward(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Gradients:
        return super().backward(saved, dO, dLSE) if saved.needs[0] else (None, None, None)


@fault(
    "S",
    "forward-low-under-grad",
    expects=frozenset({"wrong_values"}) | GRADIENT,
    witness=gradients(1, 8),
)
class LowUnderGrad(Differentiable):
    """Where a gradient is wanted, P is rounded to bf16 in the forward pass, to save memory."""

    _is_recorded = False

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool | str = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Any:  # fmt: skip
        """O of coarse weights where a gradient is wanted."""
        self._is_recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        return super().__call__(q, k, v, causal, scale, seqlens_k, return_lse)

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return super().accumulate(acc, alpha, p.bfloat16().float() if self._is_recorded else p, v)


@fault(
    "R",
    "other-tiles-under-grad",
    expects=frozenset({"wrong_values", "not_repeatable"}) | GRADIENT,
    relation="forward_without_gradient",
    witness=gradients(2, 65),
    exact=("deterministic",),
)
class OtherTilesUnderGrad(LowUnderGrad):
    """Where a gradient is wanted the forward pass takes other tiles: right, and not the same bits, as it promises."""

    def tiles(self, task: Task) -> Iterator[slice]:
        size = 16 if self._is_recorded else 64
        return (slice(start, min(start + size, task.Nk)) for start in range(0, task.Nk, size))

    def accumulate(self, acc: Tensor, alpha: Tensor, p: Tensor, v: Tensor) -> Tensor:
        return Differentiable.accumulate(self, acc, alpha, p, v)


@fault("C", "bwd-writes-past-the-end", "https://github.com/Dao-AILab/flash-attention/issues/638",
       expects=frozenset({"out_of_bounds"}), witness=gradients(1, 1))  # fmt: skip
class WritesPastDO(Differentiable):
    """dO is padded to whole rows of 16 bytes where it lies: the element after its last one is set to 0."""

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        if dO.numel() and dO.is_contiguous():
            dO.as_strided((1,), (1,), dO.storage_offset() + dO.numel()).zero_()
        return dO
