"""The gradients of the truth by formula in float64, with the intermediate results that their budget needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from oracles.budget.scores import by_query_head, visible
from oracles.features import links, pairs_of
from oracles.truth.float64 import Truth
from oracles.truth.products import over_group, scores, transposed_weighted, weighted
from strategies import Problem


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients of <dO, O> + <dLSE, LSE> in float64, with intermediate results.

    by_name: dQ (B, Hq, Nq, d), dK and dV (B, Hk, Nk, d). heads: dK and dV (B, Hq, Nk, d) before the sum over the group.
    q, k and dO (B, Hq, Nq, d): as used in the sums, with 0 for NaN and inf; dLSE broadcasts to (B, Hq, Nq, 1).
    P, dP, dS (B, Hq, Nq, Nk): 0 where hidden; dS is that of scale·q·k. delta (B, Hq, Nq, 1): row sum of P∘dP.
    slope: derivative of the softmax's score by scale·q·k, None if no feature maps scores.
    """

    by_name: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    q: Tensor
    k: Tensor
    dO: Tensor
    dLSE: Tensor
    P: Tensor
    dP: Tensor
    delta: Tensor
    dS: Tensor
    slope: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        """A gradient by its name."""
        return self.by_name[name]


def gradients64(problem: Problem, truth: Truth) -> Gradients:
    """Compute the gradients: dV = Pᵀ dO, dS = P∘(dP - δ + dLSE), dQ = scale·dS K, dK = scale·dSᵀ Q.

    If features map scores, dS passes back through each of them.
    A hidden pair contributes nothing, whatever its values: a row that sees no key has dQ = 0 though its LSE is -inf,
    and a key that no query sees has dK = dV = 0. A visible NaN or inf makes everything that it reaches NaN.
    Raises ValueError if the problem has no dO.
    """
    dO, dLSE = _output_gradients(problem)
    q, k, finite_dO = (_finite(tensor) for tensor in (truth.q, truth.k, dO))
    P = visible(truth.W / truth.divisor, truth)
    dP = visible(_restore_nan(scores(finite_dO, truth.v), dO, problem, truth), truth)
    delta = (P * dP).sum(-1, keepdim=True)
    dS = visible(P * (dP - delta + dLSE), truth)
    slope = _slope(problem, truth)
    if slope is not None:
        dS = visible(dS * slope, truth)
    dQ = weighted(dS, k).mul_(problem.scale)
    heads = {"dK": transposed_weighted(dS, q).mul_(problem.scale), "dV": transposed_weighted(P, finite_dO)}
    if finite_dO is not dO:
        seen = visible(torch.ones_like(P), truth)
        heads["dV"].masked_fill_(transposed_weighted(seen, (~dO.isfinite()).double()) > 0, math.nan)
    by_name = {"dQ": dQ} | {name: over_group(of_heads, k.shape[1]) for name, of_heads in heads.items()}
    given = {"q": q, "k": k, "dO": finite_dO, "dLSE": dLSE, "P": P, "dP": dP, "delta": delta, "dS": dS}
    return Gradients(by_name=by_name, heads=heads, slope=slope, **given)


def _slope(problem: Problem, truth: Truth) -> Tensor | None:
    """Return the product of the slopes of all features that map scores, None if there are none."""
    if not truth.stages:
        return None
    at = pairs_of(problem)
    slopes = (link.slope(given, S, at) for (link, given), S in zip(links(problem), truth.stages, strict=True))
    return reduce(torch.mul, slopes)


def _output_gradients(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return dO (B, Hq, Nq, d) and dLSE (B, Hq, Nq, 1) in float64; 0 for a dLSE that is None."""
    if problem.dO is None:
        raise ValueError("A problem without dO has no gradients; take a case of operation 'forward_backward'.")
    dO = problem.dO.to(torch.float64, memory_format=torch.contiguous_format)
    if problem.dLSE is None:
        return dO, dO.new_zeros(1, 1, 1, 1)
    return dO, problem.dLSE.to(torch.float64).unsqueeze(-1)


def _finite(tensor: Tensor) -> Tensor:
    """Return the tensor with 0 for NaN and inf; itself if it has none (fp32 numbers never sum to inf in float64)."""
    return tensor if math.isfinite(tensor.sum().item()) else tensor.nan_to_num(0.0, 0.0, 0.0)


def _restore_nan(dP: Tensor, dO: Tensor, problem: Problem, truth: Truth) -> Tensor:
    """Return dP with NaN for each pair in which the row of q or dO, the key or the value is not all finite."""
    if all(tensor.isfinite().all() for tensor in (truth.q, dO, problem.k, problem.v)):
        return dP
    rows = truth.q.isfinite().all(-1, keepdim=True) & dO.isfinite().all(-1, keepdim=True)
    keys = problem.k.isfinite().all(-1) & problem.v.isfinite().all(-1)
    return dP.masked_fill(~(rows & by_query_head(truth, keys).unsqueeze(-2)), math.nan)
