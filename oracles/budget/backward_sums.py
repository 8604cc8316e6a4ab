"""Turns errors of pairs of a query and a key into errors of dQ, dK and dV."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from oracles.budget.arithmetic import FLUSHED, Arithmetic
from oracles.budget.forward import FP32_MAX
from oracles.truth.products import over_group, transposed_weighted, weighted

SIGMAS = 7.5
"""Bound of a sum of random errors, in standard deviations: exceeding it is far too rare for any campaign to see."""
UNIFORM = 1 / math.sqrt(3)
"""Standard deviation of an error that is uniform within ±1."""
Parts = dict[str, Tensor]


def sum_of(parts: Parts) -> Tensor:
    """Return the sum of the parts."""
    return reduce(torch.add, parts.values())


@dataclass(frozen=True)
class Roundings:
    """Errors of pairs (B, Hq, Nq, Nk): most is the worst case, deviation the standard deviation if they are random."""

    most: Tensor
    deviation: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """A gradient that is factor · pairs @ rows (dQ), or factor · pairsᵀ @ rows summed over a group (dK and dV).

    rows: |K| (B, Hk, Nk, d), or |Q| or |dO| (B, Hq, Nq, d). heads: the gradient before it is summed over a group.
    errors (B, Hq, Nq, Nk): those of the pairs by name; roundings: those that may be random. shared: errors of the
    gradient's elements by name that are not sums over pairs. count: the number of terms of an element. lost: pairs for
    which nothing is promised, nor for any element that they reach. largest: the largest number of the gradient's dtype.
    """

    gradient: Tensor
    heads: Tensor
    rows: Tensor
    factor: float
    errors: Parts
    roundings: dict[str, Roundings]
    shared: Parts
    count: Tensor
    lost: Tensor
    rounding: Arithmetic
    largest: float
    is_transposed: bool

    def total(self) -> Tensor:
        """Return the budget of each element."""
        worst = self.errors | {name: of.most for name, of in self.roundings.items() if of.deviation is None}
        random = {name: self._sum_roundings(of) for name, of in self.roundings.items() if of.deviation is not None}
        return sum_of(self._add_store({"worst case": self._sum_pairs(sum_of(worst))} | random | self.shared))

    def parts(self) -> Parts:
        """Return the budget of each element by its parts."""
        sums = {name: self._sum_pairs(of_pairs) for name, of_pairs in self.errors.items()}
        sums |= {name: self._sum_roundings(of) for name, of in self.roundings.items()}
        return self._add_store(sums | {name: sums[name] + part for name, part in self.shared.items()})

    def _sum_roundings(self, roundings: Roundings) -> Tensor:
        """Return the worst case of the roundings or, if they are random, 7.5 sigma of their sum if that is less."""
        worst = self._sum_pairs(roundings.most)
        if roundings.deviation is None:
            return worst
        squares = replace(self, rows=self.rows.square(), factor=self.factor**2)
        return torch.minimum(worst, squares._sum_pairs(roundings.deviation.square()).sqrt_().mul_(SIGMAS))

    def _sum_pairs(self, of_pairs: Tensor) -> Tensor:
        of_pairs = of_pairs.masked_fill(self.lost, 0.0)
        if not self.is_transposed:
            return weighted(of_pairs, self.rows).mul_(self.factor)
        return over_group(transposed_weighted(of_pairs, self.rows), self.gradient.shape[1]).mul_(self.factor)

    def _add_store(self, parts: Parts) -> Parts:
        """Add what is flushed, and what is rounded at the store and before the sum over a group."""
        r, size, Hk = self.rounding, self.gradient.abs(), self.gradient.shape[1]
        has_terms = (self.count.clamp(max=1.0) * (self.factor > 0)).expand_as(size)
        group = self.heads.shape[1] // Hk
        parts["underflow"] = self.count * has_terms * (FLUSHED * max(1.0, self.factor))
        if group > 1:
            sizes = over_group(self.heads.abs(), Hk)
            parts["group sum"] = r.u_io * (sizes + sum_of(parts)) + (group * r.tiny_io) * has_terms
        parts["store"] = r.u_io * (size + sum_of(parts)) + r.tiny_io * has_terms
        lost = self._reached() | self._overflows(sum_of(parts))
        if group > 1:
            # The gradient of one head may overflow where the sum does not.
            lost = lost | (sizes + sum_of(parts) >= self.largest)
        return parts | {"overflow": torch.where(lost, math.inf, 0.0)} if lost.any() else parts

    def _overflows(self, errors: Tensor) -> Tensor:
        """Whether absolute terms may sum past fp32's range: their errors are more than 2·u_dot of that sum."""
        return errors > FP32_MAX * 2 * self.rounding.u_dot * self.factor

    def _reached(self) -> Tensor:
        """Whether a lost pair reaches an element."""
        if not self.is_transposed:
            return self.lost.any(-1, keepdim=True).expand_as(self.gradient)
        keys = self.lost.any(-2).unsqueeze(-1).double()
        return over_group(keys, self.gradient.shape[1]).expand_as(self.gradient) > 0
