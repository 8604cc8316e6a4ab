"""A plain FlashAttention in torch operations: tiles of keys, online softmax in fp32 and base 2, P cast for P V.

Its backward pass recomputes P from LSE, takes δ from the stored O, and casts P and dS for the products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from oracles import Answer
from oracles.features import visible
from strategies import Problem

Cast = Callable[[Tensor], Tensor]
LN_2 = math.log(2)


def flash(
    problem: Problem,
    tile: int = 32,
    p_dtype: torch.dtype | None = None,
    cast_input: Cast = Tensor.float,
    cast_scores: Cast = Tensor.float,
    cast_P: Cast | None = None,
    cast_sum: Cast = Tensor.float,
    rescales: bool = True,
) -> Answer:
    """O in the inputs' dtype and LSE in fp32; the later arguments are ways to get it wrong."""
    dtype = problem.q.dtype
    cast_P = cast_P or (lambda P: P.to(p_dtype or dtype).float())
    q, k, v = (cast_input(tensor) for tensor in (problem.q, *_readable(problem)))
    k, v = (tensor.repeat_interleave(problem.group, 1) for tensor in (k, v))
    seen = visible(problem)
    m = torch.full_like(q[..., :1], -torch.inf)
    l, acc = torch.zeros_like(m), torch.zeros_like(q)
    for start in range(0, k.shape[2], tile):
        keys = slice(start, start + tile)
        S = cast_scores(q @ k[:, :, keys].mT) * (problem.scale / LN_2)
        S = S if seen is None else S.masked_fill(~seen[..., keys], -torch.inf)
        m_new = torch.maximum(m, S.amax(-1, keepdim=True))
        shift = m_new.masked_fill(m_new.isneginf(), 0.0)
        alpha = torch.exp2(m - shift) if rescales else torch.ones_like(m)
        P = torch.exp2(S - shift)
        l = l * alpha + P.sum(-1, keepdim=True)
        acc = cast_sum(acc * alpha + cast_P(P) @ v[:, :, keys])
        m = m_new
    O = acc / l.masked_fill(l == 0, 1.0)
    return Answer(O.to(dtype), ((m + l.log2()) * LN_2).squeeze(-1))


@dataclass(frozen=True)
class Backward:
    """A plain backward pass over tiles of queries and keys; everything but the tile is a way to get it wrong.

    cast_P, cast_dS: what P and dS are rounded to for the products. cast_sum: what sums over tiles are kept in.
    delta: δ of (dO, O). rounds_heads: dK and dV of each query head are rounded before they are summed.
    """

    tile: int = 32
    cast_P: Cast | None = None
    cast_dS: Cast | None = None
    cast_sum: Cast = Tensor.float
    delta: Callable[[Tensor, Tensor], Tensor] = lambda dO, O: (dO * O).sum(-1, keepdim=True)
    scale: float | None = None
    scale_dQ: float = 1.0
    uses_dLSE: bool = True
    rounds_heads: bool = False
    over_group: Callable[[Tensor], Tensor] = lambda heads: heads.sum(2)

    def __call__(self, problem: Problem, forward: Answer) -> Answer:
        """The forward answer with dQ, dK and dV in the inputs' dtype."""
        dtype, Hk = problem.q.dtype, problem.k.shape[1]
        q, k, v, dO = (tensor.float() for tensor in (problem.q, *_readable(problem), problem.dO))
        k, v = (tensor.repeat_interleave(problem.group, 1) for tensor in (k, v))
        delta = self.delta(dO, forward.O.float())
        if problem.dLSE is not None and self.uses_dLSE:
            delta = delta - problem.dLSE.unsqueeze(-1)
        dQ, dK, dV = self._sums(problem, q, k, v, dO, forward.LSE.unsqueeze(-1), delta)
        scale = problem.scale if self.scale is None else self.scale
        heads = [tensor.to(dtype).float() if self.rounds_heads else tensor for tensor in (dK * scale, dV)]
        dK, dV = (self.over_group(tensor.unflatten(1, (Hk, -1))).to(dtype) for tensor in heads)
        dQ = (dQ * (scale * self.scale_dQ)).to(dtype)
        return Answer(forward.O, forward.LSE, {"dQ": dQ, "dK": dK, "dV": dV})

    def _sums(self, problem: Problem, q, k, v, dO, LSE, delta) -> tuple[Tensor, Tensor, Tensor]:
        cast = [of or (lambda x: x.to(problem.q.dtype).float()) for of in (self.cast_P, self.cast_dS)]
        seen = visible(problem)
        seen = torch.ones(1, 1, *LSE.shape[2:3], k.shape[2], dtype=torch.bool) if seen is None else seen
        seen = seen.expand(-1, -1, q.shape[2], -1)
        dQ, dK, dV = (torch.zeros_like(tensor) for tensor in (q, k, v))
        for rows, keys in product(_tiles(q.shape[2], self.tile), _tiles(k.shape[2], self.tile)):
            i, j = (slice(None), slice(None), rows), (slice(None), slice(None), keys)
            S = q[i] @ k[j].mT * ((problem.scale if self.scale is None else self.scale) / LN_2)
            P = torch.exp2(S - LSE[i] / LN_2).masked_fill(~seen[:, :, rows, keys], 0.0)
            dS = cast[1](P * (dO[i] @ v[j].mT - delta[i]))
            dQ[i] = self.cast_sum(dQ[i] + dS @ k[j])
            dK[j] = self.cast_sum(dK[j] + dS.mT @ q[i])
            dV[j] = self.cast_sum(dV[j] + cast[0](P).mT @ dO[i])
        return dQ, dK, dV


def _tiles(N: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, N)) for start in range(0, N, tile)]


def _readable(problem: Problem) -> tuple[Tensor, Tensor]:
    """K and V with 0 for what lies past the end, as a masked load leaves it."""
    if problem.seqlens_k is None:
        return problem.k, problem.v
    past_end = torch.arange(problem.k.shape[2], device=problem.k.device) >= problem.seqlens_k[:, None]
    return tuple(tensor.masked_fill(past_end[:, None, :, None], 0.0) for tensor in (problem.k, problem.v))


def keep_bits(mantissa: int, truncate: bool = False) -> Cast:
    """Round or truncate fp32 to this many bits of mantissa: 10 is TF32, 7 is bf16."""

    def cast(x: Tensor) -> Tensor:
        dropped = 23 - mantissa
        bits = x.float().view(torch.int32)
        half = 0 if truncate else 1 << (dropped - 1)
        return ((bits + half) >> dropped << dropped).view(torch.float32)

    return cast
