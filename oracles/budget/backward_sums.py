"""Errors of pairs of a query and a key become errors of dQ, dK and dV."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from oracles.budget.arithmetic import FLUSHED, Arithmetic
from oracles.budget.forward import FP32_MAX
from oracles.truth.products import gathered, over_group, weighted

SIGMAS = 7.5
"""Standard deviations that a sum of errors at random stays within, far beyond any campaign."""
UNIFORM = 1 / math.sqrt(3)
"""Standard deviation of an error that is uniform within ±1."""
Parts = dict[str, Tensor]


def sum_of(parts: Parts) -> Tensor:
    """The sum of the parts."""
    return reduce(torch.add, parts.values())


@dataclass(frozen=True)
class Roundings:
    """Errors of pairs (B, Hq, Nq, Nk), most at their worst, and their standard deviation where they err at random."""

    most: Tensor
    deviation: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """A gradient that is factor · pairs @ rows (dQ), or factor · pairsᵀ @ rows summed over a group (dK and dV).

    rows: |K| (B, Hk, Nk, d), or |Q| or |dO| (B, Hq, Nq, d). heads: the gradient before it is summed over a group.
    errors (B, Hq, Nq, Nk): those of the pairs by name, and roundings those that may err at random. shared: errors of
    the gradient's elements by name, that are no sum over pairs. count: how many terms an element has. lost: pairs of
    which nothing is promised, and so nothing of any element that they reach. largest: the largest number of the
    gradient's dtype.
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
        """The budget of each element."""
        at_worst = self.errors | {name: of.most for name, of in self.roundings.items() if of.deviation is None}
        at_random = {name: self._rounded(of) for name, of in self.roundings.items() if of.deviation is not None}
        return sum_of(self._stored({"at worst": self._over_pairs(sum_of(at_worst))} | at_random | self.shared))

    def parts(self) -> Parts:
        """The budget of each element by its parts."""
        sums = {name: self._over_pairs(of_pairs) for name, of_pairs in self.errors.items()}
        sums |= {name: self._rounded(of) for name, of in self.roundings.items()}
        return self._stored(sums | {name: sums[name] + part for name, part in self.shared.items()})

    def _rounded(self, roundings: Roundings) -> Tensor:
        """Roundings at their worst or, where they err at random, 7.5 sigma of their sum if that is less."""
        worst = self._over_pairs(roundings.most)
        if roundings.deviation is None:
            return worst
        squares = replace(self, rows=self.rows.square(), factor=self.factor**2)
        return torch.minimum(worst, squares._over_pairs(roundings.deviation.square()).sqrt_().mul_(SIGMAS))

    def _over_pairs(self, of_pairs: Tensor) -> Tensor:
        of_pairs = of_pairs.masked_fill(self.lost, 0.0)
        if not self.is_transposed:
            return weighted(of_pairs, self.rows).mul_(self.factor)
        return over_group(gathered(of_pairs, self.rows), self.gradient.shape[1]).mul_(self.factor)

    def _stored(self, parts: Parts) -> Parts:
        """With what is flushed and what is rounded at the end, once, or before the sum over a group as well."""
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
            # A head's own may pass the largest number where the sum does not.
            lost = lost | (sizes + sum_of(parts) >= self.largest)
        return parts | {"overflow": torch.where(lost, math.inf, 0.0)} if lost.any() else parts

    def _overflows(self, errors: Tensor) -> Tensor:
        """Elements whose absolute terms may sum past fp32's range: their errors are more than 2·u_dot of that sum."""
        return errors > FP32_MAX * 2 * self.rounding.u_dot * self.factor

    def _reached(self) -> Tensor:
        """Elements that a lost pair reaches."""
        if not self.is_transposed:
            return self.lost.any(-1, keepdim=True).expand_as(self.gradient)
        keys = self.lost.any(-2).unsqueeze(-1).double()
        return over_group(keys, self.gradient.shape[1]).expand_as(self.gradient) > 0
