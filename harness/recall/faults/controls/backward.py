"""Attention with gradients, built in different ways."""

# ruff: noqa: D102 (the methods are steps of `backward_blocks.Differentiable`, described there)

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.recall.faults.backward_blocks import Autograd, Back, Casting, Differentiable, Saved
from harness.recall.faults.blocks import Causal, Output, Task
from harness.recall.faults.registry import control
from harness.recall.faults.tensor_cores import tensor_core_product


@control("backward-16x16")
class Square(Differentiable):
    """Tiles of 16 queries and 16 keys."""

    rows, tile = 16, 16


@control("backward-64x32")
class Tall(Differentiable):
    """Tiles of 64 queries and 32 keys."""

    rows, tile = 64, 32


@control("backward-16x128")
class WideGradients(Differentiable):
    """Tiles of 16 queries and 128 keys."""

    rows, tile = 16, 128


@control("backward-one-tile")
class OneTileGradients(Differentiable):
    """One tile of all queries and all keys."""

    rows = tile = 1 << 30


@control("backward-casts")
class Casts(Casting):
    """P and dS are rounded to the inputs' dtype, as a kernel on tensor cores does."""


@control("backward-casts-scaled-ds")
class ScaledBeforeCast(Casting):
    """dS is scaled before it is rounded to the inputs' dtype."""

    def cast_ds(self, dS: Tensor, task: Task) -> Tensor:
        return super().cast_ds(dS * task.scale, task)

    def scaled_dq(self, dQ: Tensor, task: Task) -> Tensor:
        return dQ

    def scaled_dk(self, dK: Tensor, task: Task) -> Tensor:
        return dK


@control("backward-on-tensor-cores", dtypes=("fp16",), exact=("deterministic", "scale_invariant"))
class OnTensorCores(Casting):
    """Sums of products are cut as tensor cores cut them, subnormal numbers too, and no promise is broken by that."""

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return tensor_core_product(a, b, torch.float16)


@control("backward-in-reverse")
class ReverseOrder(Differentiable):
    """dQ, dK and dV are summed from the last tile to the first, as atomics may."""

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        yield from reversed(list(super().tiles_of_row(back, rows)))

    def rows_of_tile(self, back: Back, keys: slice) -> Iterator[slice]:
        yield from reversed(list(super().rows_of_tile(back, keys)))


@control("backward-early-exit")
class EarlyExit(Differentiable):
    """Tiles that the diagonal or a length hides wholly are left out, those of dK and dV stay 0."""

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        limit = back.task.limit if back.task.limit.shape[2] == 1 else back.task.limit[:, :, rows]
        return (keys for keys in super().tiles_of_row(back, rows) if bool((keys.start < limit).any()))

    def rows_of_tile(self, back: Back, keys: slice) -> Iterator[slice]:
        limit = back.task.limit.expand(-1, 1, back.task.Nq, 1)
        return (rows for rows in super().rows_of_tile(back, keys) if bool((limit[:, :, rows] > keys.start).any()))


@control("backward-base-2")
class BaseTwoGradients(Differentiable):
    """exp2, in the forward pass and where P is made again."""

    def exp(self, x: Tensor) -> Tensor:
        return (x * math.log2(math.e)).exp2()


@control("backward-delta-from-p")
class DeltaFromP(Differentiable):
    """δ is made as Σ P∘dP over the keys, and O is not needed."""

    def back(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Back:
        back = super().back(saved, dO, dLSE)
        every, keys = slice(0, back.task.Nq), slice(0, back.task.Nk)
        P, _ = self.tile_of(back, every, keys)
        delta = (P * self.dp(back, every, keys)).sum(-1, keepdim=True)
        return Back(back.task, back.dO, back.LSE, delta - self.from_lse(dLSE, back.LSE))


@control("backward-float64")
class DoubleGradients(Differentiable):
    """Everything in float64, rounded once at the end."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return task.q.double() @ task.k[:, :, keys].double().mT * task.scale

    def values(self, task: Task, keys: slice) -> Tensor:
        return super().values(task, keys).double()

    def keys(self, task: Task, keys: slice) -> Tensor:
        return super().keys(task, keys).double()

    def queries(self, task: Task, rows: slice) -> Tensor:
        return super().queries(task, rows).double()

    def douts(self, back: Back, rows: slice) -> Tensor:
        return back.dO[:, :, rows].double()

    def first_max(self, task: Task) -> Tensor:
        return super().first_max(task).double()

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, m, l).float()


@control("autograd")
class PlainAutograd(Autograd):
    """A plain softmax in fp32, and what autograd makes of it."""


class _Part(Differentiable):
    """Some of the keys, from the first on, of a problem with Nk of them."""

    def __init__(self, first: int, Nk: int) -> None:
        self._first, self._Nk = first, Nk

    def task(
        self, q: Tensor, k: Tensor, v: Tensor, causal: Causal, scale: float | None, seqlens_k: Tensor | None
    ) -> Task:
        B, size = q.shape[0], k.shape[2]
        whole = torch.full((B,), self._Nk, device=q.device) if seqlens_k is None else seqlens_k
        lengths = whole.long()[:, None, None, None]
        limit = self.limit(q, k, lengths, causal)
        lengths, limit = ((x - self._first).clamp(0, size) for x in (lengths, limit))
        k, v = (self.per_query_head(x, q.shape[1]) for x in (k, v))
        return Task(q, k, v, lengths, limit, self.scale(q, scale), causal)


@control("split-keys-differentiable")
class SplitDifferentiable:
    """The keys in two parts with a backward pass each, merged by their LSE, which autograd passes through."""

    __flashattest__: dict[str, Any] = Differentiable.__flashattest__

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: Causal = False, scale: float | None = None,
                 seqlens_k: Tensor | None = None, return_lse: bool = False) -> Output:  # fmt: skip
        """O, and LSE where it is asked for."""
        Nk, cut = k.shape[2], k.shape[2] // 3
        dtype, (q, k, v) = q.dtype, (x.float() for x in (q, k, v))
        parts = []
        for keys in (slice(0, cut), slice(cut, Nk)):
            found = _Part(keys.start, Nk)(q, k[:, :, keys], v[:, :, keys], causal, scale, seqlens_k, return_lse=True)
            assert isinstance(found, tuple)
            parts.append(found)
        O, LSE = self._merged(parts)
        return (O.to(dtype), LSE) if return_lse else O.to(dtype)

    def weighing(self, LSE: Tensor) -> Tensor:
        """LSE of a part, as its weight is made of it."""
        return LSE

    def _merged(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        largest = torch.maximum(*(LSE.detach() for _, LSE in parts))
        is_empty = largest == -torch.inf
        shift = largest.masked_fill(is_empty, 0.0)
        total = self._total([(LSE - shift).exp() for _, LSE in parts], is_empty)
        weights = [(self.weighing(LSE) - shift).exp() for _, LSE in parts]
        shares = [weight / self._total(weights, is_empty) for weight in weights]
        first, second = (share[..., None] * O for share, (O, _) in zip(shares, parts, strict=True))
        return first + second, (shift + total.log()).masked_fill(is_empty, -torch.inf)

    def _total(self, weights: Sequence[Tensor], is_empty: Tensor) -> Tensor:
        return (weights[0] + weights[1]).masked_fill(is_empty, 1.0)
