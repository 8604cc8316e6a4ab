"""Matrix products in which the query heads of a group share one head of K or V without copying it."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(q: Tensor, k: Tensor) -> Tensor:
    """Return q @ k^T as (B, Hq, Nq, Nk), of contiguous q (B, Hq, Nq, d) and k (B, Hk, Nk, d)."""
    B, Hq, Nq, d = q.shape
    _, Hk, Nk, _ = k.shape
    rows = q.view(B * Hk, Hq // Hk * Nq, d)
    return torch.bmm(rows, k.view(B * Hk, Nk, d).mT).view(B, Hq, Nq, Nk)


def weighted(weights: Tensor, v: Tensor) -> Tensor:
    """Return weights @ v as (B, Hq, Nq, c), of contiguous weights (B, Hq, Nq, Nk) and v (B, Hk, Nk, c)."""
    B, Hq, Nq, Nk = weights.shape
    _, Hk, _, c = v.shape
    rows = weights.view(B * Hk, Hq // Hk * Nq, Nk)
    return torch.bmm(rows, v.view(B * Hk, Nk, c)).view(B, Hq, Nq, c)


def transposed_weighted(weights: Tensor, rows: Tensor) -> Tensor:
    """Return weights^T @ rows as (B, Hq, Nk, c), of contiguous weights (B, Hq, Nq, Nk) and rows (B, Hq, Nq, c)."""
    B, Hq, Nq, Nk = weights.shape
    c = rows.shape[-1]
    return torch.bmm(weights.view(B * Hq, Nq, Nk).mT, rows.view(B * Hq, Nq, c)).view(B, Hq, Nk, c)


def over_group(by_query_head: Tensor, Hk: int) -> Tensor:
    """Sum (B, Hq, Nk, c) over the query heads that share one head of K and V: (B, Hk, Nk, c)."""
    B, Hq, Nk, c = by_query_head.shape
    return by_query_head if Hq == Hk else by_query_head.reshape(B, Hk, Hq // Hk, Nk, c).sum(2)
