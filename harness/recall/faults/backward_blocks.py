"""A correct tiled attention with a backward by tiles, each step of it a method that a planted fault may replace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.recall.faults.blocks import Causal, OneTile, Output, Task, Tiled

Needs = tuple[bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Saved:
    """What the forward pass leaves to the backward one.

    q, k, v as they were given; O in q's dtype, LSE (B, Hq, Nq) in fp32. needs: which of q, k, v want a gradient.
    kept: whatever else a function keeps with the graph.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    O: Tensor
    LSE: Tensor
    causal: Causal
    scale: float | None
    seqlens_k: Tensor | None
    needs: Needs
    kept: dict[str, Any]


@dataclass(frozen=True)
class Back:
    """What there is to compute in the backward pass.

    task: that of the forward pass, K and V repeated for each query head. dO (B, Hq, Nq, d). LSE and delta
    (B, Hq, Nq, 1) in fp32.
    """

    task: Task
    dO: Tensor
    LSE: Tensor
    delta: Tensor


class Differentiable(Tiled):
    """The right forward pass, and a backward pass in fp32 that recomputes P from LSE.

    dS = P∘(dP - δ) with dP = dO·Vᵀ and δ = rowsum(dO∘O) - dLSE; one pass over tiles of queries makes dQ, one over
    tiles of keys dK and dV of each query head, which are then summed over its group. Neither P nor dS is cast.
    """

    __flashattest__: dict[str, Any] = {**Tiled.__flashattest__, "differentiable": True}  # noqa: RUF012
    rows = 32

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
        """Attention as `Tiled` gives it, with gradients through O and LSE."""
        O, LSE = _Attention.apply(self, q, k, v, causal, scale, seqlens_k)  # type: ignore[no-untyped-call]
        return (O, LSE) if return_lse else O

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, causal: Causal, scale: float | None, seqlens_k: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """O in q's dtype, and LSE."""
        O, LSE = self.attend(self.task(*self.inputs(q, k, v), causal, scale, seqlens_k))
        return self.store(O, q), LSE

    def keep(self, O: Tensor, LSE: Tensor) -> dict[str, Any]:
        """What is kept with the graph in addition to the tensors that autograd guards."""
        return {}

    def backward(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Gradients:
        """dQ, dK and dV, each in its input's dtype, None where it is not needed."""
        back = self.back(saved, dO, dLSE)
        dQ = self.store_dq(self.dq(self.for_dq(back)), saved) if saved.needs[0] else None
        if not any(saved.needs[1:]):
            return dQ, None, None
        dK, dV = self.dkv(self.for_dkv(back))
        dK, dV = (self.group_sum(x, saved.k.shape[1], saved) for x in (dK, dV))
        dK, dV = self.store_dk(dK, saved), self.store_dv(dV, saved)
        return dQ, dK if saved.needs[1] else None, dV if saved.needs[2] else None

    def back(self, saved: Saved, dO: Tensor, dLSE: Tensor | None) -> Back:
        """The arguments of the backward pass made explicit."""
        task = self.back_task(saved)
        dO = self.dO(dO, saved)
        LSE = self.saved_lse(saved)
        return Back(task, dO, LSE, self.delta(dO, saved) - self.from_lse(dLSE, LSE))

    def back_task(self, saved: Saved) -> Task:
        """The task of the forward pass, as the backward pass sees it."""
        return self.task(*self.inputs(saved.q, saved.k, saved.v), saved.causal, saved.scale, saved.seqlens_k)

    def dO(self, dO: Tensor, saved: Saved) -> Tensor:
        """dO as the kernel addresses it."""
        return dO

    def saved_lse(self, saved: Saved) -> Tensor:
        """LSE (B, Hq, Nq, 1)."""
        return saved.LSE[..., None]

    def delta(self, dO: Tensor, saved: Saved) -> Tensor:
        """rowsum(dO∘O), (B, Hq, Nq, 1)."""
        return (dO.float() * saved.O.float()).sum(-1, keepdim=True)

    def from_lse(self, dLSE: Tensor | None, LSE: Tensor) -> Tensor:
        """The gradient of LSE, (B, Hq, Nq, 1): LSE moves by P·dS, so it adds P∘dLSE to dS."""
        return torch.zeros_like(LSE) if dLSE is None else dLSE.float()[..., None]

    def for_dq(self, back: Back) -> Back:
        """What the pass for dQ sees."""
        return back

    def for_dkv(self, back: Back) -> Back:
        """What the pass for dK and dV sees."""
        return back

    def row_tiles(self, back: Back) -> Iterator[slice]:
        """The tiles of queries."""
        Nq = back.task.Nq
        return (slice(start, min(start + self.rows, Nq)) for start in range(0, Nq, self.rows))

    def dq(self, back: Back) -> Tensor:
        """dQ in fp32: memory that every tile of queries writes its own rows of."""
        dQ = torch.empty(back.task.q.shape, dtype=torch.float32, device=back.task.q.device)
        for rows in self.row_tiles(back):
            dQ[:, :, rows] = self.scaled_dq(self.dq_tile(back, rows), back.task)
        return dQ

    def dq_tile(self, back: Back, rows: slice) -> Tensor:
        """Σ over the tiles of keys of dS·K, before the scale."""
        acc = torch.zeros(back.task.q[:, :, rows].shape, dtype=torch.float32, device=back.task.q.device)
        for keys in self.tiles_of_row(back, rows):
            _, dS = self.tile_of(back, rows, keys)
            tile = self.product(self.cast_ds(dS, back.task), self.keys(back.task, keys))
            acc = self.add_dq(acc, tile, back.task)
        return acc

    def tiles_of_row(self, back: Back, rows: slice) -> Iterator[slice]:
        """The tiles of keys that a tile of queries takes in."""
        return self.tiles(back.task)

    def dkv(self, back: Back) -> tuple[Tensor, Tensor]:
        """dK and dV (B, Hq, Nk, d) of each query head in fp32: memory that every tile of keys writes its own of."""
        shape, device = back.task.k.shape, back.task.k.device
        dK, dV = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2))
        for keys in self.tiles(back.task):
            tile_dK, dV[:, :, keys] = self.dkv_tile(back, keys)
            dK[:, :, keys] = self.scaled_dk(tile_dK, back.task)
        return dK, dV

    def dkv_tile(self, back: Back, keys: slice) -> tuple[Tensor, Tensor]:
        """Σ over the tiles of queries of dSᵀ·Q, before the scale, and of Pᵀ·dO."""
        dK = dV = torch.zeros(back.task.k[:, :, keys].shape, dtype=torch.float32, device=back.task.k.device)
        for rows in self.rows_of_tile(back, keys):
            P, dS = self.tile_of(back, rows, keys)
            tile_dK = self.product(self.cast_ds(dS, back.task).mT, self.queries(back.task, rows))
            tile_dV = self.product(self.cast_p(P, back.task).mT, self.douts(back, rows))
            dK, dV = self.add_dk(dK, tile_dK, back.task), self.add_dv(dV, tile_dV, back.task)
        return dK, dV

    def rows_of_tile(self, back: Back, keys: slice) -> Iterator[slice]:
        """The tiles of queries that a tile of keys takes in."""
        return self.row_tiles(back)

    def tile_of(self, back: Back, rows: slice, keys: slice) -> tuple[Tensor, Tensor]:
        """P and dS (B, Hq, rows, keys) of one tile, 0 where hidden."""
        task = of_rows(back.task, rows)
        s = self.hide(task, self.scores(task, keys), keys)
        P = self.probabilities(s, back.LSE[:, :, rows])
        dS = self.ds(P, self.dp(back, rows, keys), back.delta[:, :, rows])
        return P, self.hide_ds(task, dS, keys)

    def hide_ds(self, task: Task, dS: Tensor, keys: slice) -> Tensor:
        """0 for the keys that a row does not see, where dP may be anything."""
        return dS.masked_fill(task.columns(keys) >= task.limit, 0.0)

    def probabilities(self, s: Tensor, LSE: Tensor) -> Tensor:
        """P = exp(S - LSE), 0 in a row that sees no key."""
        return self.exp(s - self.floor(LSE))

    def dp(self, back: Back, rows: slice, keys: slice) -> Tensor:
        """dP = dO·Vᵀ."""
        return self.product(self.douts(back, rows), self.values(back.task, keys).mT)

    def ds(self, P: Tensor, dP: Tensor, delta: Tensor) -> Tensor:
        """dS = P∘(dP - δ)."""
        return P * (dP - delta)

    def cast_p(self, P: Tensor, task: Task) -> Tensor:
        """P as it meets dO: as it meets V in the forward pass."""
        return self.cast(P, task)

    def cast_ds(self, dS: Tensor, task: Task) -> Tensor:
        """dS as it meets K and Q."""
        return dS

    def douts(self, back: Back, rows: slice) -> Tensor:
        """dO in fp32."""
        return back.dO[:, :, rows].float()

    def queries(self, task: Task, rows: slice) -> Tensor:
        """Q in fp32."""
        return task.q[:, :, rows].float()

    def keys(self, task: Task, keys: slice) -> Tensor:
        """K in fp32, 0 past the lengths: there, 0 would meet NaN."""
        past_end = task.columns(keys)[:, None] >= task.lengths
        return task.k[:, :, keys].float().masked_fill(past_end, 0.0)

    def add_dq(self, acc: Tensor, tile: Tensor, task: Task) -> Tensor:
        """The accumulator of dQ with this tile."""
        return acc + tile

    def add_dk(self, acc: Tensor, tile: Tensor, task: Task) -> Tensor:
        """The accumulator of dK with this tile."""
        return acc + tile

    def add_dv(self, acc: Tensor, tile: Tensor, task: Task) -> Tensor:
        """The accumulator of dV with this tile."""
        return acc + tile

    def scaled_dq(self, dQ: Tensor, task: Task) -> Tensor:
        """The scale of the scores passes into dQ."""
        return dQ * task.scale

    def scaled_dk(self, dK: Tensor, task: Task) -> Tensor:
        """The scale of the scores passes into dK."""
        return dK * task.scale

    def group_sum(self, x: Tensor, Hk: int, saved: Saved) -> Tensor:
        """dK or dV (B, Hk, Nk, d) from that of each query head."""
        B, Hq, Nk, d = x.shape
        return x.reshape(B, Hk, Hq // Hk, Nk, d).sum(2)

    def store_dq(self, dQ: Tensor, saved: Saved) -> Tensor:
        """dQ in q's dtype."""
        return dQ.to(saved.q.dtype)

    def store_dk(self, dK: Tensor, saved: Saved) -> Tensor:
        """dK in k's dtype."""
        return dK.to(saved.k.dtype)

    def store_dv(self, dV: Tensor, saved: Saved) -> Tensor:
        """dV in v's dtype."""
        return dV.to(saved.v.dtype)


class Casting(Differentiable):
    """The same with P and dS rounded to the inputs' dtype before they meet another matrix, as tensor cores want it."""

    __flashattest__: dict[str, Any] = {**Differentiable.__flashattest__, "p_dtype": None}  # noqa: RUF012

    def cast(self, p: Tensor, task: Task) -> Tensor:
        """P in the inputs' dtype."""
        return p.to(task.q.dtype).float()

    def cast_ds(self, dS: Tensor, task: Task) -> Tensor:
        """dS in the inputs' dtype."""
        return dS.to(task.q.dtype).float()


class Autograd(OneTile):
    """A plain softmax over all keys, and the gradients that autograd makes of it."""

    __flashattest__: dict[str, Any] = {**OneTile.__flashattest__, "differentiable": True}  # noqa: RUF012

    def per_query_head(self, x: Tensor, Hq: int) -> Tensor:
        """K or V in fp32 for each query head: autograd sums the gradients of copies in the dtype of the copies."""
        return super().per_query_head(x.float(), Hq)

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        """O and LSE; K and V are 0 past the lengths, where autograd would multiply NaN by 0."""
        past_end = self._columns(task)[:, None] >= task.lengths
        k, v = (x.masked_fill(past_end, 0.0) for x in (task.k, task.v))
        s = task.q.float() @ k.mT * task.scale
        return self.softmax(task, s, self._columns(task) >= task.limit, v)

    def softmax(self, task: Task, s: Tensor, hidden: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """O and LSE of scores; a row that sees no key keeps its scores and is emptied afterwards."""
        is_empty = task.limit <= 0
        s = s.masked_fill(hidden & ~is_empty, -torch.inf)
        LSE = s.logsumexp(-1, keepdim=True) if task.Nk else s.sum(-1, keepdim=True)
        P = (s - LSE).exp().masked_fill(is_empty, 0.0)
        return P @ v, LSE.masked_fill(is_empty, -torch.inf).squeeze(-1)

    def _columns(self, task: Task) -> Tensor:
        return task.columns(slice(0, task.Nk))


class _Attention(torch.autograd.Function):
    """Puts a `Differentiable` on the record."""

    @staticmethod
    def forward(
        ctx: Any,
        attention: Differentiable,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: Causal,
        scale: float | None,
        seqlens_k: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """O and LSE."""
        O, LSE = attention.forward(q, k, v, causal, scale, seqlens_k)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, O, LSE, seqlens_k)
        ctx.attention, ctx.asked, ctx.kept = attention, (causal, scale), attention.keep(O, LSE)
        return O, LSE

    @staticmethod
    def backward(ctx: Any, dO: Tensor | None, dLSE: Tensor | None) -> Any:
        """Gradients of q, k and v that are needed."""
        q, k, v, O, LSE, seqlens_k = ctx.saved_tensors
        causal, scale = ctx.asked
        saved = Saved(q, k, v, O, LSE, causal, scale, seqlens_k, ctx.needs_input_grad[1:4], ctx.kept)
        found = ctx.attention.backward(saved, torch.zeros_like(O) if dO is None else dO, dLSE)
        return None, *found, None, None, None


def of_rows(task: Task, rows: slice) -> Task:
    """The same task for some of the queries alone."""
    limit = task.limit if task.limit.shape[2] == 1 else task.limit[:, :, rows]
    return replace(task, q=task.q[:, :, rows], limit=limit)
