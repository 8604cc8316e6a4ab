"""Whether gradients are right on a row, before they are timed: float64 on whole heads of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speed.rows import DTYPES, Inputs, Row
from speed.truth import BOUNDS, HEADS, ONE_QUERY

SCORES = 1 << 25
"""Scores of a block of queries: a few float64 tensors of this many fit beside what is timed."""


class Head(NamedTuple):
    """dQ (group, N, d), dK and dV (N, d) of one head of K and V and the group of Q that it serves, in float64."""

    dQ: Tensor
    dK: Tensor
    dV: Tensor


@dataclass(frozen=True)
class GradientTruth:
    """The gradients at some heads (b, hk), and of each the size against which an error is measured.

    The size of an element is the root of the sum of the squares of its terms, each without the difference in it: of
    dQ_i = scale·Σ_j P_ij·(dP_ij - δ_i)·K_j the terms P_ij·(|dP_ij| + |δ_i|)·K_j, for a gradient may be exactly 0 (dQ of
    a query that sees one key) where honest rounding is not.
    """

    row: Row
    heads: tuple[tuple[int, int], ...]
    gradients: tuple[Head, ...]
    sizes: tuple[Head, ...]

    def error(self, got: Any) -> float:
        """Error of (dQ, dK, dV) in units of what is allowed, the worst of the three; inf for a wrong form or NaN."""
        row, dtype = self.row, DTYPES[self.row.dtype]
        shapes = [(row.B, H, row.N, row.d) for H in (row.Hq, row.Hk, row.Hk)]
        if [(tuple(x.shape), x.dtype) for x in got] != [(shape, dtype) for shape in shapes]:
            return float("inf")
        return max(self._error(place, x) for place, x in enumerate(got))

    def _error(self, place: int, got: Tensor) -> float:
        off, size = [], []
        for (b, hk), right, sized in zip(self.heads, self.gradients, self.sizes, strict=True):
            of_head = got[b, hk * self.row.group : (hk + 1) * self.row.group] if place == 0 else got[b, hk]
            off.append((of_head.double() - right[place]).norm(dim=-1).flatten())
            size.append(sized[place].norm(dim=-1).flatten())
        return _in_bounds(torch.cat(off), torch.cat(size), BOUNDS[self.row.dtype])


def _in_bounds(off: Tensor, size: Tensor, bound: float) -> float:
    """The error of all rows together, or of the worst one if that is more; a row without a size must be exact."""
    if not bool(off.isfinite().all()) or bool((off[size == 0] > 0).any()):
        return float("inf")
    worst = float((off / size.clamp_min(torch.finfo(torch.float64).tiny)).max())
    return max(float(off.norm() / size.norm()), worst / ONE_QUERY) / bound


def gradient_truth(row: Row, inputs: Inputs) -> GradientTruth:
    """The definition in float64, for heads of K and V spread over all batch entries, with all of their group."""
    count = min(max(1, HEADS // (2 * row.group)), row.B * row.Hk)
    flat = torch.linspace(0, row.B * row.Hk - 1, count).round().int().tolist()
    heads = tuple(divmod(index, row.Hk) for index in flat)
    pairs = [_head(row, inputs, b, hk) for b, hk in heads]
    return GradientTruth(row, heads, tuple(right for right, _ in pairs), tuple(size for _, size in pairs))


def _head(row: Row, inputs: Inputs, b: int, hk: int) -> tuple[Head, Head]:
    """The gradients of one head of K and V, and their sizes."""
    like = inputs.k[b, hk].double()
    right, size = (Head(like.new_zeros(row.group, row.N, row.d), *(torch.zeros_like(like) for _ in "KV")) for _ in "12")
    for g in range(row.group):
        for rows in _blocks(row):
            _add(row, inputs, (b, hk, g), rows, right, size)
    for squares in size:
        squares.sqrt_()
    return right, size


def _blocks(row: Row) -> Iterator[slice]:
    step = max(1, SCORES // row.N)
    return (slice(first, min(first + step, row.N)) for first in range(0, row.N, step))


def _add(row: Row, inputs: Inputs, where: tuple[int, int, int], rows: slice, right: Head, size: Head) -> None:
    """Add what a block of queries of one head gives, and the squares of its terms.

    With P = softmax(scale·Q·Kᵀ), dP = dO·Vᵀ, δ = rowsum(P∘dP), dS = P∘(dP - δ): dV = Pᵀ·dO, dQ = scale·dS·K,
    dK = scale·dSᵀ·Q (https://arxiv.org/abs/2205.14135, appendix B.2).
    """
    assert inputs.dO is not None
    (b, hk, g), length = where, row.lengths[where[0]]
    q, dO = (x[b, hk * row.group + g, rows].double() for x in (inputs.q, inputs.dO))
    k, v = (x[b, hk, :length].double() for x in (inputs.k, inputs.v))
    S = q @ k.mT * row.scale
    if row.causal:
        queries = torch.arange(rows.start, rows.stop, device=q.device)
        S.masked_fill_(torch.arange(length, device=q.device) > queries[:, None], -torch.inf)
    P, dP = S.softmax(-1), dO @ v.mT
    delta = (P * dP).sum(-1, keepdim=True)
    dS, terms = P * (dP - delta) * row.scale, P * (dP.abs() + delta.abs()) * row.scale
    right.dQ[g, rows] += dS @ k
    right.dK[:length] += dS.mT @ q
    right.dV[:length] += P.mT @ dO
    size.dQ[g, rows] += terms**2 @ k**2
    size.dK[:length] += (terms**2).mT @ q**2
    size.dV[:length] += (P**2).mT @ dO**2
