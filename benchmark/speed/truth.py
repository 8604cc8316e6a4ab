"""Whether a provider is right on a row, before it is timed: float64 on a sample of heads and queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speed.rows import DTYPES, Inputs, Row

HEADS = 6
QUERIES = 64
EDGE = 8
"""Queries at either end that the sample always has: a wrong mask shows most where a query sees few keys."""

BOUNDS = {"fp16": 1.5e-3, "bf16": 1.2e-2, "fp32": 1e-5}
"""Largest ‖O - truth‖ / ‖truth‖ of an honest kernel on normal values: about 3 roundings to the dtype. TF32 is not fp32.

An online softmax that casts P measures 1 rounding, scores kept in the dtype 2."""

ONE_QUERY = 4.0
"""How many times the bound the worst single query may be off."""


@dataclass(frozen=True)
class Truth:
    """O in float64 at some heads and queries: O (heads, queries, d), head (b, h), query (queries,)."""

    row: Row
    heads: tuple[tuple[int, int], ...]
    queries: Tensor
    O: Tensor

    def error(self, O: Tensor) -> float:
        """Error in units of what is allowed: at most 1 is right; inf where the shape or dtype is wrong, or for NaN."""
        row, got = self.row, O.detach()
        if got.shape != (row.B, row.Hq, row.N, row.d) or got.dtype != DTYPES[row.dtype]:
            return float("inf")
        sample = torch.stack([got[b, h, self.queries] for b, h in self.heads]).double()
        off, size = (sample - self.O).norm(dim=-1), self.O.norm(dim=-1)
        whole = float(off.norm() / size.norm())
        worst = float((off / size).max())
        error = max(whole, worst / ONE_QUERY) / BOUNDS[row.dtype]
        return error if error == error and worst == worst else float("inf")


def truth(row: Row, inputs: Inputs) -> Truth:
    """The definition in float64, for heads spread over all batch entries and queries spread over all tokens."""
    flat = torch.linspace(0, row.B * row.Hq - 1, min(HEADS, row.B * row.Hq)).round().int().tolist()
    heads = tuple(divmod(index, row.Hq) for index in flat)
    spread = torch.linspace(0, row.N - 1, min(QUERIES, row.N)).round().long()
    edge = torch.arange(min(EDGE, row.N))
    queries = torch.unique(torch.cat([spread, edge, row.N - 1 - edge])).to(inputs.q.device)
    return Truth(row, heads, queries, torch.stack([_head(row, inputs, b, h, queries) for b, h in heads]))


def _head(row: Row, inputs: Inputs, b: int, h: int, queries: Tensor) -> Tensor:
    length = row.lengths[b]
    q = inputs.q[b, h, queries].double()
    k, v = (x[b, h // row.group, :length].double() for x in (inputs.k, inputs.v))
    S = q @ k.mT * row.scale
    if row.causal:
        S = S.masked_fill(torch.arange(length, device=q.device) > queries[:, None], -torch.inf)
    return S.softmax(-1) @ v
