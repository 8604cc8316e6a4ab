"""The error budget of gradients: how far from the truth each element of a right dQ, dK and dV may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from oracles.arithmetic import FLUSHED, Arithmetic
from oracles.budget import FP32_MAX, Budget, forward_budget, sum_roundings
from oracles.float64 import Truth
from oracles.gradients64 import Gradients
from oracles.heads import gathered, over_group, scores, weighted
from oracles.weights import HOPELESS, dot_error, score_errors
from strategies import Problem

Parts = dict[str, Tensor]
Index = tuple[int, ...]


@dataclass(frozen=True)
class GradientBudget:
    """Allowed error of each element, in float64: dQ (B, Hq, Nq, d), dK and dV (B, Hk, Nk, d).

    0 where the truth is 0 for want of anything to see: a row that sees no key, a key that no query sees. inf where
    fp32, or the casts of P and dS, may overflow: nothing is promised there, not even a number.
    """

    dQ: Tensor
    dK: Tensor
    dV: Tensor
    rounding: Arithmetic | None = field(default=None, repr=False)
    products: dict[str, Product] = field(default_factory=dict, repr=False)

    def is_for(self, dtype: torch.dtype) -> bool:
        """Whether it speaks of a kernel that computes from, casts to and stores in one dtype, this one."""
        return self.rounding is None or self.rounding == Arithmetic.of(dtype)

    def parts(self, tensor: str, index: Index) -> dict[str, float]:
        """What the budget of one element of "dQ", "dK" or "dV" is made of, by name."""
        if not self.products:
            return {}
        return {name: part[index].item() for name, part in self.products[tensor].parts().items()}


def gradient_budget(
    problem: Problem,
    truth: Truth,
    gradients: Gradients,
    p_dtype: torch.dtype | None = None,
    independent: bool = False,
    dtype: torch.dtype | None = None,
) -> GradientBudget:
    """How far dQ, dK and dV of a right backward pass may be from the truth.

    Arguments and notation as in `oracles.budget.forward_budget`.
    """
    g = gradients
    if truth.S.numel() == 0:
        return GradientBudget(torch.zeros_like(g.dQ), torch.zeros_like(g.dK), torch.zeros_like(g.dV))
    dtype = dtype or problem.q.dtype
    kernel = Kernel(Arithmetic.of(dtype, p_dtype), torch.finfo(dtype), torch.finfo(p_dtype or dtype), independent)
    forward = forward_budget(problem, truth, p_dtype, independent, dtype)
    products = _products(problem, truth, g, pair_errors(problem, truth, g, forward, kernel), kernel)
    dQ, dK, dV = (products[name].total() for name in ("dQ", "dK", "dV"))
    return GradientBudget(dQ, dK, dV, kernel.rounding, products)


@dataclass(frozen=True)
class Kernel:
    """A right kernel: its roundings, the numbers that it stores and those that it casts P to."""

    rounding: Arithmetic
    stored: torch.finfo
    casts: torch.finfo
    independent: bool

    @property
    def u_dS(self) -> float:
        """Unit roundoff of the cast of dS: that of the inputs, or of P where that is coarser."""
        r = self.rounding
        return max(r.u_p, r.u_io if r.u_io > r.u else 0.0)

    @property
    def tiny_dS(self) -> float:
        """Absolute error of the cast of dS near zero."""
        return max(self.rounding.tiny_p, self.rounding.tiny_io)

    @property
    def largest_cast(self) -> float:
        """The largest number that P and dS may be cast to."""
        return min(self.stored.max, self.casts.max, FP32_MAX / 2)

    def steps(self, n: Tensor) -> Tensor:
        """Unit roundoffs of a sum of n terms: g(n) + 4."""
        return sum_roundings(n, self.independent) + 4


@dataclass(frozen=True)
class PairErrors:
    """Errors of each pair (B, Hq, Nq, Nk) by name: of P, and of dS before its cast. seen is 1, or 0 where hidden.

    most_P, most_dS: what P and dS may come to. lost_P, lost_dS: pairs of which nothing is promised.
    """

    P: Parts
    dS: Parts
    most_P: Tensor
    most_dS: Tensor
    seen: Tensor
    lost_P: Tensor
    lost_dS: Tensor


def pair_errors(problem: Problem, truth: Truth, g: Gradients, forward: Budget, kernel: Kernel) -> PairErrors:
    """How far the P and the dS of a right kernel may be from the truth."""
    r = kernel.rounding
    seen = _hide(torch.ones_like(g.P), truth)
    E_P, lost_P = _weight_errors(problem, truth, g, forward, r, seen)
    P = g.P + E_P
    size_dP = _hide(scores(g.dO.abs(), truth.v.abs()), truth)
    E_dP = size_dP * dot_error(problem, r) + seen * (problem.q.shape[-1] * FLUSHED)
    E_delta = _delta_errors(truth, g, forward, kernel, E_P, P, E_dP)
    slope = _hide((g.dP - g.delta + g.dLSE).abs(), truth)
    dS = {
        "weights": E_P * slope,
        "dP": P * E_dP,
        "delta": P * E_delta,
        "subtraction": P * (g.dP.abs() + g.delta.abs() + g.dLSE.abs()) * (3 * r.u),
    }
    most_dS = g.dS.abs() + sum_of(dS)
    lost_rows = (lost_P | (size_dP > FP32_MAX / 4)).any(-1, keepdim=True) | _lost_outputs(truth, forward, kernel)
    lost_dS = (lost_rows | (most_dS * max(1.0, abs(problem.scale)) >= kernel.largest_cast)) & (seen > 0)
    return PairErrors({"weights": E_P}, dS, P, most_dS, seen, lost_P, lost_dS)


def _weight_errors(
    problem: Problem, truth: Truth, g: Gradients, forward: Budget, r: Arithmetic, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Error of P = exp(S - LSE), and the pairs whose scores are too wrong to say one."""
    LSE = truth.LSE.unsqueeze(-1)
    size_LSE = LSE.abs().masked_fill(LSE.isneginf(), 0.0)
    drift = forward.LSE.unsqueeze(-1) + 2 * r.u * (size_LSE + truth.divisor.log())
    f = _hide(score_errors(problem, truth, r) + drift, truth)
    lost = f >= HOPELESS
    return (g.P * f.clamp(max=HOPELESS).expm1_()).add_(seen, alpha=FLUSHED), lost


def _delta_errors(
    truth: Truth, g: Gradients, forward: Budget, kernel: Kernel, E_P: Tensor, P: Tensor, E_dP: Tensor
) -> Tensor:
    """Error of δ (B, Hq, Nq, 1), which a kernel may take from its stored O or from its own P and dP."""
    r, size_dO, d = kernel.rounding, g.dO.abs(), g.dO.shape[-1]
    of_O = (size_dO * forward.O).nan_to_num(0.0, 0.0).sum(-1, keepdim=True)
    of_O += (size_dO * truth.O.abs()).sum(-1, keepdim=True) * ((min(d - 1, 2 * math.sqrt(d)) + 4) * r.u_dot)
    size_dP = g.dP.abs()
    of_P = (E_P * size_dP + P * E_dP).sum(-1, keepdim=True)
    of_P += (P * size_dP).sum(-1, keepdim=True) * (kernel.steps(truth.visible_keys) * r.u_dot)
    return torch.maximum(of_O, of_P)


def _lost_outputs(truth: Truth, forward: Budget, kernel: Kernel) -> Tensor:
    """Rows (B, Hq, Nq, 1) with an element of O, stored, that may be no number: δ may be none either."""
    is_lost = truth.O.abs() + forward.O >= kernel.stored.max
    return is_lost.any(-1, keepdim=True) | forward.LSE.isposinf().unsqueeze(-1)


@dataclass(frozen=True)
class Product:
    """A gradient as a product: factor · errors @ rows for dQ, factor · errorsᵀ @ rows for dK and dV.

    errors (B, Hq, Nq, Nk) by name; rows: |K| (B, Hk, Nk, d), |Q| or |dO| (B, Hq, Nq, d). size: |gradient|, and
    size_heads: the sum of |gradient| of each query head of a group, None where it has one. count: how many terms
    each element is a sum of. lost: pairs that make nothing of every element that they reach.
    """

    is_transposed: bool
    errors: Parts
    rows: Tensor
    factor: float
    size: Tensor
    size_heads: Tensor | None
    count: Tensor
    lost: Tensor
    rounding: Arithmetic

    def total(self) -> Tensor:
        """The budget of each element."""
        return sum_of(self._finished({"all": self._applied(sum_of(self.errors))}))

    def parts(self) -> Parts:
        """The budget of each element by its parts."""
        return self._finished({name: self._applied(of_pairs) for name, of_pairs in self.errors.items()})

    def _finished(self, parts: Parts) -> Parts:
        r, has = self.rounding, (self.count.clamp(max=1.0) * (self.factor > 0)).expand_as(self.size)
        parts["underflow"] = self.count * has * (FLUSHED * max(1.0, self.factor))
        if self.size_heads is not None:
            parts["group sum"] = r.u_io * (self.size_heads + sum_of(parts))
        stored = self.size + sum_of(parts)
        parts["store"] = r.u_io * stored + r.tiny_io * has
        if self.lost.any():
            parts["overflow"] = torch.where(self._reached(), math.inf, 0.0)
        return parts

    def _applied(self, of_pairs: Tensor) -> Tensor:
        of_pairs = of_pairs.masked_fill(self.lost, 0.0)
        if not self.is_transposed:
            return weighted(of_pairs, self.rows).mul_(self.factor)
        return over_group(gathered(of_pairs, self.rows), self.size.shape[1]).mul_(self.factor)

    def _reached(self) -> Tensor:
        """Elements that a lost pair reaches."""
        if not self.is_transposed:
            return self.lost.any(-1, keepdim=True).expand_as(self.size)
        keys = self.lost.any(-2).unsqueeze(-1).double()
        return over_group(keys, self.size.shape[1]).expand_as(self.size) > 0


def _products(problem: Problem, truth: Truth, g: Gradients, pairs: PairErrors, kernel: Kernel) -> dict[str, Product]:
    r, scale, Hk = kernel.rounding, abs(problem.scale), truth.k.shape[1]
    keys = pairs.seen.sum(-1, keepdim=True)
    queries = pairs.seen.sum(-2, keepdim=True)
    cast_dS = kernel.u_dS * pairs.most_dS + pairs.seen * (kernel.tiny_dS * max(1.0, 1 / scale if scale else 0.0))
    cast_P = r.u_p * pairs.most_P + pairs.seen * r.tiny_p
    dS, P = pairs.dS | {"cast of dS": cast_dS}, pairs.P | {"cast of P": cast_P}
    sum_dS, sum_P = (pairs.most_dS + cast_dS) * r.u_dot, (pairs.most_P + cast_P) * r.u_dot
    by_group = over_group(queries.mT, Hk)
    terms = by_group.repeat_interleave(problem.group, 1).mT

    def transposed(errors: Parts, rows: Tensor, factor: float, of: Tensor, heads: Tensor, lost: Tensor) -> Product:
        size_heads = over_group(heads.abs(), Hk) if problem.group > 1 else None
        return Product(True, errors, rows.abs(), factor, of.abs(), size_heads, by_group, lost, r)

    for_dQ = dS | {"accumulation": sum_dS * kernel.steps(keys)}
    for_dK = dS | {"accumulation": sum_dS * kernel.steps(terms)}
    for_dV = P | {"accumulation": sum_P * kernel.steps(terms)}
    return {
        "dQ": Product(False, for_dQ, g.k.abs(), scale, g.dQ.abs(), None, keys, pairs.lost_dS, r),
        "dK": transposed(for_dK, g.q, scale, g.dK, g.dK_heads, pairs.lost_dS),
        "dV": transposed(for_dV, g.dO, 1.0, g.dV, g.dV_heads, pairs.lost_P),
    }


def sum_of(parts: Parts) -> Tensor:
    """The sum of the parts."""
    return reduce(torch.add, parts.values())


def _hide(pairs: Tensor, truth: Truth) -> Tensor:
    return pairs if truth.hidden is None else pairs.masked_fill(truth.hidden, 0.0)
