"""The error budget of gradients: how far from the truth each element of a right dQ, dK and dV may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from oracles.budget.arithmetic import FLUSHED, Arithmetic
from oracles.budget.backward_sums import SIGMAS, UNIFORM, Parts, Roundings, Sum, sum_of
from oracles.budget.forward import DECLARED, FP32_MAX, Budget, add_tolerance, forward_budget, sum_roundings
from oracles.budget.scores import HUGE_SCORE_ERROR, by_query_head, dot_error, score_errors, stage_errors, visible
from oracles.features import links, pairs_of
from oracles.truth.float64 import Truth
from oracles.truth.gradients64 import Gradients
from oracles.truth.products import over_group, scores, weighted
from strategies import Problem


@dataclass(frozen=True, eq=False)
class GradientBudget:
    """Allowed error of each element by gradient, in float64: of "dQ" (B, Hq, Nq, d), "dK" and "dV" (B, Hk, Nk, d).

    0 for a row that sees no key and a key that no query sees, where the truth is exactly 0. inf where fp32, or the
    casts of P and dS, may overflow: nothing is promised there, not even a number. atol: as in `Budget`.
    """

    by_name: Mapping[str, Tensor]
    rounding: Arithmetic | None = field(default=None, repr=False)
    sums: Mapping[str, Sum] = field(default_factory=dict, repr=False)
    atol: float = 0.0

    def __getitem__(self, name: str) -> Tensor:
        """The budget of a gradient."""
        return self.by_name[name]

    def is_for(self, dtype: torch.dtype) -> bool:
        """Whether it is for a kernel that computes, casts and stores in this one dtype."""
        return not self.atol and (self.rounding is None or self.rounding == Arithmetic.of(dtype))

    def plus(self, atol: float) -> GradientBudget:
        """Return the budget with a declared tolerance added, except where it is 0: nothing is computed there."""
        return replace(self, by_name=add_tolerance(self.by_name, atol), atol=atol) if atol else self

    def parts(self, name: str, index: tuple[int, ...]) -> dict[str, float]:
        """Return the parts of the budget of one element of a gradient, by name."""
        if not self.sums:
            return {}
        found = {part: of_part[index].item() for part, of_part in self.sums[name].parts().items()}
        return found | ({DECLARED: self.atol} if self.atol else {})


def gradient_budget(
    problem: Problem,
    truth: Truth,
    gradients: Gradients,
    p_dtype: torch.dtype | None = None,
    independent: bool = False,
    dtype: torch.dtype | None = None,
    forward: Budget | None = None,
) -> GradientBudget:
    """Return how far dQ, dK and dV of a right backward pass may be from the truth.

    Arguments, notation and g(n) as in `forward_budget`; independent includes dO. forward: the budget of the forward
    pass, if it is already computed. A kernel takes P' = exp(S' - LSE') from recomputed scores and the LSE stored by its
    forward pass, or keeps the softmax. It takes δ' from dO and the O stored by its forward pass, or from its own P' and
    dP'. P' is cast to p_dtype for dV, dS' to the inputs' dtype for dQ and dK (to p_dtype if that is coarser; in fp32
    neither is cast).

    - weights: P' is off by a factor exp(±f_j), f_j = e_j + the budget of LSE + 2u·(|LSE| + log l), so E_P =
      P·expm1(f) + 2^-126. dV takes E_P, dS takes E_P·|dP - δ + dLSE|.
    - dP: P'·(min(d_v - 1, 2√d_v) + 4)·u_dot·Σ|dO||v|, with d_v the columns of v and P' at most P + E_P.
    - delta: P'·E_δ. From O, E_δ = (1 + ΣE_P)·(ΣE_P|dP - δ| + u_p·ΣP'|dP|) + Σ_c|dO_c|·(u_io|O_c| + the budget of O
      without scores and casts) + the error of the sum over c. The first two are not sums over c: an error ε_j of the
      weight of key j moves all columns of O, hence δ by ε_j·(dP_j - δ), and |dP_j| is far less than Σ_c|dO_c||v_jc|.
      From P' and dP', E_δ = ΣE_P|dP| + ΣP'·E_dP + (g(n) + 4)·u_dot·ΣP'|dP|. The budget takes the larger one.
      All pairs of a row share one δ', so dQ_i moves by E_δ·|Σ_j P'_ij k_j|: at most E_δ·(|Σ P k| + ΣE_P|k|).
      If values are independent, its casts (u_p, u_io) err at random, in dK independently for each row.
    - subtraction: 3u·P'·(|dP| + |δ| + |dLSE|), the roundings of P∘(dP - δ + dLSE).
    - cast: u_p·Σ P'|dO| of dV, u_io·Σ dS'|k| and u_io·Σ dS'|q|, with dS' at most |dS| + all of the above. If values
      are independent: 7.5 sigma of casts that err at random, if that is less.
    - cast near 0: tiny of the cast per pair; times max(1, 1/|scale|) in dS, cast with or without its scale.
    - accumulation: (g(n) + 4)·u_dot·Σ of the absolute terms, with n the keys that a row sees, or the queries of the
      whole group that see a key. In any order, tile by tile or by atomics, but in fp32.
    - underflow: n·2^-126, of products that are flushed to 0.
    - group sum: u_io·Σ_h(|gradient of query head h| + all of the above) + group·tiny_io. If K and V are expanded
      before the call, autograd rounds dK and dV of every query head before it sums them. As |dK_h| <= Σ|dS||q|, this
      is never more than the cast, and the error of a head that is lost or counted twice is far more.
    - store: u_io·(|gradient| + all of the above) + tiny_io.

    |scale| multiplies dQ and dK from "weights" to "accumulation". A pair is lost, and with it all of dQ_i and dK_j, or
    dV_j, if P' may be off by more than a factor e^30, the cast of dS may pass the largest number of its dtype, or a sum
    that of fp32, or the sum of one head of a group that of its dtype. A whole row of dS is lost if its δ may be no
    number: the stored O, or dP, may overflow.
    """
    g = gradients
    if truth.S.numel() == 0:
        return GradientBudget({name: torch.zeros_like(gradient) for name, gradient in g.by_name.items()})
    dtype = dtype or problem.q.dtype
    kernel = Kernel(Arithmetic.of(dtype, p_dtype), torch.finfo(dtype), torch.finfo(p_dtype or dtype), independent)
    forward = forward or forward_budget(problem, truth, p_dtype, independent, dtype)
    sums = _sums(problem, truth, g, _pair_errors(problem, truth, g, forward, kernel), kernel)
    return GradientBudget({name: each.total() for name, each in sums.items()}, kernel.rounding, sums)


@dataclass(frozen=True)
class Kernel:
    """A right kernel: its rounding errors, the dtype that it stores and the dtype that it casts P to."""

    rounding: Arithmetic
    stored: torch.finfo
    casts: torch.finfo
    independent: bool

    @property
    def u_dS(self) -> float:
        """Unit roundoff of the cast of dS: that of the inputs, or of P if that is coarser."""
        r = self.rounding
        return max(r.u_p, r.u_io if r.u_io > r.u else 0.0)

    @property
    def tiny_dS(self) -> float:
        """Absolute error of the cast of dS near zero."""
        return max(self.rounding.tiny_p, self.rounding.tiny_io)

    @property
    def largest_cast(self) -> float:
        """The largest number that dS may be cast to, or summed with in fp32."""
        return min(self.stored.max, self.casts.max, FP32_MAX / 2)

    def cast(self, most: Tensor, u: float) -> Roundings:
        """Return the errors of casts of numbers of at most this size."""
        return Roundings(most * u, most * (u * UNIFORM) if self.independent and u else None)

    def steps(self, n: Tensor) -> Tensor:
        """Return the unit roundoffs of a sum of n terms: g(n) + 4."""
        return sum_roundings(n, self.independent) + 4


@dataclass(frozen=True)
class PairErrors:
    """Errors of each pair (B, Hq, Nq, Nk) by name: of P, and of dS before its cast. seen is 1, or 0 where hidden.

    delta: errors of δ, which a row's pairs share. most_P, most_dS: upper bounds of P' and |dS'|. lost_P, lost_dS: pairs
    for which nothing is promised.
    """

    P: Parts
    dS: Parts
    delta: DeltaErrors
    most_P: Tensor
    most_dS: Tensor
    seen: Tensor
    lost_P: Tensor
    lost_dS: Tensor


@dataclass(frozen=True)
class DeltaErrors:
    """Errors of δ (B, Hq, Nq, 1): their total, and the part from the casts of P and O with its standard deviation."""

    all: Tensor
    casts: Tensor
    deviation: Tensor

    def without(self, rows: Tensor) -> DeltaErrors:
        """Return the errors with 0 in these rows (B, Hq, Nq, 1)."""
        return DeltaErrors(*(of.masked_fill(rows, 0.0) for of in (self.all, self.casts, self.deviation)))


def _pair_errors(problem: Problem, truth: Truth, g: Gradients, forward: Budget, kernel: Kernel) -> PairErrors:
    seen = visible(torch.ones_like(g.P), truth)
    E_P, lost_P = _weight_errors(problem, truth, g, forward, kernel.rounding, seen)
    P = g.P + E_P
    size_dP = visible(scores(g.dO.abs(), truth.v.abs()), truth)
    E_dP = size_dP * dot_error(truth.v.shape[-1], kernel.rounding) + seen * (truth.v.shape[-1] * FLUSHED)
    delta = _delta_errors(truth, g, forward, kernel, E_P, P, E_dP)
    dS = {
        "weights": E_P * visible((g.dP - g.delta + g.dLSE).abs(), truth),
        "dP": P * E_dP,
        "delta": P * delta.all,
        "subtraction": P * (g.dP.abs() + g.delta.abs() + g.dLSE.abs()) * (3 * kernel.rounding.u),
    }
    if g.slope is not None:
        dS = {name: part * g.slope.abs() for name, part in dS.items()}
        dS["features"] = P * (g.dP - g.delta + g.dLSE).abs() * _slope_error(problem, truth, kernel.rounding) * seen
    most_dS = g.dS.abs() + sum_of(dS)
    lost_rows = (lost_P | (size_dP > FP32_MAX / 4)).any(-1, keepdim=True) | _lost_outputs(truth, forward, kernel)
    lost_dS = (lost_rows | (most_dS * max(1.0, abs(problem.scale)) >= kernel.largest_cast)) & (seen > 0)
    return PairErrors({"weights": E_P}, dS, delta.without(lost_rows), P, most_dS, seen, lost_P, lost_dS)


def _slope_error(problem: Problem, truth: Truth, rounding: Arithmetic) -> Tensor:
    """Return the error of the product of the features' slopes: each one's error times the steepest others."""
    at, errors = pairs_of(problem), stage_errors(problem, truth, rounding)
    steepest = slope_error = torch.zeros((), dtype=torch.float64)
    for n, ((link, given), S, e) in enumerate(zip(links(problem), truth.stages, errors, strict=False)):
        own, largest = link.slope_error(given, S, e, at, rounding), link.steepest(given, S, e, at)
        slope_error, steepest = (
            (own, largest) if n == 0 else (slope_error * largest + steepest * own, steepest * largest)
        )
    return slope_error


def _weight_errors(
    problem: Problem, truth: Truth, g: Gradients, forward: Budget, r: Arithmetic, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the error of P = exp(S - LSE), and the pairs whose score errors are too large to bound it."""
    LSE = truth.LSE.unsqueeze(-1)
    size_LSE = LSE.abs().masked_fill(LSE.isneginf(), 0.0)
    drift = forward.LSE.unsqueeze(-1) + 2 * r.u * (size_LSE + truth.divisor.log())
    f = visible(score_errors(problem, truth, r) + drift, truth)
    lost = f >= HUGE_SCORE_ERROR
    return (g.P * f.clamp(max=HUGE_SCORE_ERROR).expm1_()).add_(seen, alpha=FLUSHED), lost


def _delta_errors(
    truth: Truth, g: Gradients, forward: Budget, kernel: Kernel, E_P: Tensor, P: Tensor, E_dP: Tensor
) -> DeltaErrors:
    """Return the errors of δ, which a kernel may compute from its stored O or from its own P and dP."""
    r, size_dP, size_dO, size_O = kernel.rounding, g.dP.abs(), g.dO.abs(), truth.O.abs()
    mean_dP, normaliser = _row_sum(P, size_dP), 1 + E_P.sum(-1, keepdim=True)
    casts = r.u_p * normaliser * mean_dP + r.u_io * _row_sum(size_dO, size_O)
    squares = r.u_p**2 * _row_sum(P.square(), g.dP.square()) + r.u_io**2 * _row_sum(g.dO.square(), size_O.square())
    deviation = squares.sqrt_() * normaliser * UNIFORM
    if kernel.independent:
        casts = torch.minimum(casts, SIGMAS * deviation)
    others = normaliser * _row_sum(E_P, (g.dP - g.delta).abs()) + _row_sum(size_dO, _column_errors(truth, forward, r))
    of_P = _row_sum(E_P, size_dP) + _row_sum(P, E_dP) + kernel.steps(truth.visible_keys) * r.u_dot * mean_dP
    return DeltaErrors(torch.maximum(others + casts, of_P), casts, deviation)


def _column_errors(truth: Truth, forward: Budget, r: Arithmetic) -> Tensor:
    """Return the errors of O that differ by column, without its cast, and those of the sum over columns for δ."""
    if forward.terms is None:
        return torch.zeros_like(truth.O)
    not_own = ("scores", "cast of P", "store of O", "fp32 overflow")
    own = sum_of({name: part for name, part in forward.terms.parts_O().items() if name not in not_own})
    d, near_0 = truth.O.shape[-1], forward.O.nan_to_num(0.0, 0.0) * r.u_io + r.tiny_io
    return own + near_0 + truth.O.abs() * ((min(d - 1, 2 * math.sqrt(d)) + 4) * r.u)


def _lost_outputs(truth: Truth, forward: Budget, kernel: Kernel) -> Tensor:
    """Return the rows (B, Hq, Nq, 1) in which an element of the stored O may be no number, and so δ neither."""
    is_lost = truth.O.abs() + forward.O >= kernel.stored.max
    return is_lost.any(-1, keepdim=True) | forward.LSE.isposinf().unsqueeze(-1)


def _sums(problem: Problem, truth: Truth, g: Gradients, pairs: PairErrors, kernel: Kernel) -> dict[str, Sum]:
    """Return dQ, dK and dV as sums over pairs."""
    r, scale = kernel.rounding, abs(problem.scale)
    tiny_dS = kernel.tiny_dS * max(1.0, 1 / scale if scale else 0.0)
    dS, P = pairs.dS | {"cast near 0": pairs.seen * tiny_dS}, pairs.P | {"cast near 0": pairs.seen * r.tiny_p}
    cast_dS, cast_P = kernel.cast(pairs.most_dS, kernel.u_dS), kernel.cast(pairs.most_P, r.u_p)
    queries = over_group(pairs.seen.sum(-2).unsqueeze(-1), truth.k.shape[1])
    steps = kernel.steps(by_query_head(truth, queries)).mT * r.u_dot
    for_dK = dS | {"accumulation": _terms(pairs.most_dS, cast_dS, dS) * steps}
    for_dV = P | {"accumulation": _terms(pairs.most_P, cast_P, P) * steps}
    of_dK, of_dV = {"cast": cast_dS}, {"cast": cast_P}
    if kernel.independent:
        most = pairs.most_P if g.slope is None else pairs.most_P * g.slope.abs()
        for_dK["delta"] = most * (pairs.delta.all - pairs.delta.casts).clamp(min=0.0)
        casts = Roundings(most * pairs.delta.casts, most * pairs.delta.deviation)
        of_dK["casts in delta"] = casts

    lost, q, dO = pairs.lost_dS, g.q.abs(), g.dO.abs()
    largest = kernel.stored.max
    return {
        "dQ": _sum_over_keys(g, dS, cast_dS, pairs, scale, kernel),
        "dK": Sum(g["dK"], g.heads["dK"], q, scale, for_dK, of_dK, {}, queries, lost, r, largest, is_transposed=True),
        "dV": Sum(
            g["dV"], g.heads["dV"], dO, 1.0, for_dV, of_dV, {}, queries, pairs.lost_P, r, largest, is_transposed=True
        ),
    }


def _sum_over_keys(g: Gradients, dS: Parts, cast: Roundings, pairs: PairErrors, scale: float, kernel: Kernel) -> Sum:
    """Return dQ. A row shares one error of δ, so it multiplies |Σ P k|, not Σ|P k|."""
    r, keys = kernel.rounding, pairs.seen.sum(-1, keepdim=True)
    accumulation = _terms(pairs.most_dS, cast, dS) * (kernel.steps(keys) * r.u_dot)
    P, E_P = g.P, pairs.P["weights"]
    if g.slope is not None:
        P, E_P = P * g.slope, E_P * g.slope.abs()
    errors = dS | {"delta": E_P * pairs.delta.all, "accumulation": accumulation}
    shared = {"delta": weighted(P, g.k).abs_() * (pairs.delta.all * scale)}
    rows, lost = g.k.abs(), pairs.lost_dS
    largest = kernel.stored.max
    return Sum(
        g["dQ"], g["dQ"], rows, scale, errors, {"cast": cast}, shared, keys, lost, r, largest, is_transposed=False
    )


def _terms(most: Tensor, cast: Roundings, errors: Parts) -> Tensor:
    """Return the upper bound of a sum's terms after their cast."""
    return most + cast.most + errors["cast near 0"]


def _row_sum(a: Tensor, b: Tensor) -> Tensor:
    """Return the row sums of a product, keeping the dimension."""
    return torch.einsum("bhij,bhij->bhi", a, b.expand_as(a)).unsqueeze(-1)
