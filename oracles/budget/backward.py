"""The error budget of gradients: how far from the truth each element of a right dQ, dK and dV may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oracles.budget.arithmetic import FLUSHED, Arithmetic
from oracles.budget.backward_sums import SIGMAS, UNIFORM, Parts, Roundings, Sum, sum_of
from oracles.budget.forward import FP32_MAX, Budget, forward_budget, sum_roundings
from oracles.budget.scores import HOPELESS, by_query_head, dot_error, score_errors, stage_errors, visible
from oracles.features import links, pairs_of
from oracles.truth.float64 import Truth
from oracles.truth.gradients64 import Gradients
from oracles.truth.products import over_group, scores, weighted
from strategies import Problem


@dataclass(frozen=True, eq=False)
class GradientBudget:
    """Allowed error of each element by gradient, in float64: of "dQ" (B, Hq, Nq, d), "dK" and "dV" (B, Hk, Nk, d).

    0 where the truth is 0 for want of anything to see: a row that sees no key, a key that no query sees. inf where
    fp32, or the casts of P and dS, may overflow: nothing is promised there, not even a number.
    """

    by_name: Mapping[str, Tensor]
    rounding: Arithmetic | None = field(default=None, repr=False)
    sums: Mapping[str, Sum] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        """The budget of a gradient."""
        return self.by_name[name]

    def is_for(self, dtype: torch.dtype) -> bool:
        """Whether it speaks of a kernel that computes from, casts to and stores in one dtype, this one."""
        return self.rounding is None or self.rounding == Arithmetic.of(dtype)

    def parts(self, name: str, index: tuple[int, ...]) -> dict[str, float]:
        """What the budget of one element of a gradient is made of, by name."""
        if not self.sums:
            return {}
        return {part: of_part[index].item() for part, of_part in self.sums[name].parts().items()}


def gradient_budget(
    problem: Problem,
    truth: Truth,
    gradients: Gradients,
    p_dtype: torch.dtype | None = None,
    independent: bool = False,
    dtype: torch.dtype | None = None,
    forward: Budget | None = None,
) -> GradientBudget:
    """How far dQ, dK and dV of a right backward pass may be from the truth.

    Arguments, notation and g(n) as in `forward_budget`; independent speaks of dO too. forward: the
    budget of the forward pass, where it is made already. A kernel takes
    P' = exp(S' - LSE') from scores that it computes anew and the LSE that its forward pass stored, or a softmax that
    it kept; δ' from dO and the O that its forward pass stored, or from its own P' and dP'. P' is cast to p_dtype for
    dV, dS' to the inputs' dtype for dQ and dK (to p_dtype where that is coarser; in fp32 neither is).

    - weights: P' is off by a factor exp(±f_j), f_j = e_j + the budget of LSE + 2u·(|LSE| + log l), so E_P =
      P·expm1(f) + 2^-126. dV takes E_P, dS takes E_P·|dP - δ + dLSE|.
    - dP: P'·(min(d_v - 1, 2√d_v) + 4)·u_dot·Σ|dO||v|, d_v the columns of v, P' being P + E_P at most.
    - delta: P'·E_δ. From O, E_δ = (1 + ΣE_P)·(ΣE_P|dP - δ| + u_p·ΣP'|dP|) + Σ_c|dO_c|·(u_io|O_c| + the budget of O
      without scores and casts) + the sum over c. The first two are no sums over c: an error ε_j of the weight of key j
      moves all columns of O, hence δ by ε_j·(dP_j - δ), and |dP_j| is far less than Σ_c|dO_c||v_jc|. From P' and dP',
      E_δ = ΣE_P|dP| + ΣP'·E_dP + (g(n) + 4)·u_dot·ΣP'|dP|. The larger one holds.
      All pairs of a row have one δ', so dQ_i moves by E_δ·|Σ_j P'_ij k_j|: at most E_δ·(|Σ P k| + ΣE_P|k|).
      Where values are independent, its casts (u_p, u_io) err at random, and in dK those of each row apart.
    - subtraction: 3u·P'·(|dP| + |δ| + |dLSE|), the roundings of P∘(dP - δ + dLSE).
    - cast: u_p·Σ P'|dO| of dV, u_io·Σ dS'|k| and u_io·Σ dS'|q|, dS' being |dS| + all of the above at most. Where
      values are independent: 7.5 sigma of casts that err at random, if that is less.
    - cast near 0: tiny of the cast a pair; times max(1, 1/|scale|) in dS, which may be cast with its scale or without.
    - accumulation: (g(n) + 4)·u_dot·Σ of the absolute terms, n being the keys that a row sees or the queries of the
      whole group that see a key. In whatever order, tile by tile or by atomics, as long as it is fp32.
    - underflow: n·2^-126, of products that are flushed to 0.
    - group sum: u_io·Σ_h(|gradient of query head h| + all of the above) + group·tiny_io. K and V that are expanded
      before the call make autograd round dK and dV of every query head before it sums them. As |dK_h| <= Σ|dS||q|,
      this is never more than the cast, and a head that is lost or counted twice is far more.
    - store: u_io·(|gradient| + all of the above) + tiny_io.

    Measured on a CPU over 300 cases of `tests/oracles/measure.py` and 1100 drawn ones, largest error / budget of dQ,
    dK, dV: a plain tiled backward 1.00, 0.99, 0.98 in fp16 (where a number near 0 rounds by half its spacing: no bound
    is less), 0.79, 0.84, 0.90 in bf16, 0.08, 0.16, 0.29 in fp32; torch's SDPA math 0.85 at most in bf16, 0.32 in fp32;
    numpy64, held to float64, 0.15. torch's flash backend on a CPU, which sums dV over blocks in the low dtype: dV 1.3.
    K and V repeated before the call, groups of 2 to 65: 0.60; gathered by an index, which sums the group in the low
    dtype: dV 4.9. For normal values in bf16, the part of dQ from δ is 8 to 35 times less than with a δ of each pair.
    In campaigns on an H100: SDPA math 0.996, 0.50 and 0.27 in fp16, bf16 and fp32 (4,335 cases), our Hopper path 0.998
    and 0.92 (1,752), FlashAttention-2 below 1 wherever the scale is above 0 (506); torch's memory-efficient backend,
    which rounds P before dS, 4.6 in fp16 and 1.08 in bf16.

    |scale| multiplies dQ and dK from "weights" to "accumulation". A pair is lost, and with it all of dQ_i and dK_j,
    or dV_j, where P' may be off by more than e^30, the dS that is cast may pass the largest number of its dtype, or
    a sum may pass fp32's, or that of one head of a group its dtype's; and a whole row of dS is where its δ may: O,
    stored, may be no number, or dP may not.
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
        """The largest number that dS may be cast to, or summed with in fp32."""
        return min(self.stored.max, self.casts.max, FP32_MAX / 2)

    def cast(self, most: Tensor, u: float) -> Roundings:
        """The casts of numbers that may come to so much."""
        return Roundings(most * u, most * (u * UNIFORM) if self.independent and u else None)

    def steps(self, n: Tensor) -> Tensor:
        """Unit roundoffs of a sum of n terms: g(n) + 4."""
        return sum_roundings(n, self.independent) + 4


@dataclass(frozen=True)
class PairErrors:
    """Errors of each pair (B, Hq, Nq, Nk) by name: of P, and of dS before its cast. seen is 1, or 0 where hidden.

    delta: errors of δ, which a row's pairs share. most_P, most_dS: what P and dS may come to. lost_P, lost_dS: pairs
    of which nothing is promised.
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
    """Errors of δ (B, Hq, Nq, 1): all of them, and of these the casts of P and O with their standard deviation."""

    all: Tensor
    casts: Tensor
    deviation: Tensor

    def without(self, rows: Tensor) -> DeltaErrors:
        """None in these rows (B, Hq, Nq, 1)."""
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
    """How far the product of the features' slopes may be off: each one's error times the largest others."""
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
    """Error of P = exp(S - LSE), and the pairs whose scores are too wrong to give any."""
    LSE = truth.LSE.unsqueeze(-1)
    size_LSE = LSE.abs().masked_fill(LSE.isneginf(), 0.0)
    drift = forward.LSE.unsqueeze(-1) + 2 * r.u * (size_LSE + truth.divisor.log())
    f = visible(score_errors(problem, truth, r) + drift, truth)
    lost = f >= HOPELESS
    return (g.P * f.clamp(max=HOPELESS).expm1_()).add_(seen, alpha=FLUSHED), lost


def _delta_errors(
    truth: Truth, g: Gradients, forward: Budget, kernel: Kernel, E_P: Tensor, P: Tensor, E_dP: Tensor
) -> DeltaErrors:
    """Errors of δ, which a kernel may take from its stored O or from its own P and dP."""
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
    """Errors of O but its cast that a column has to itself, and those of the sum over columns that makes δ."""
    if forward.terms is None:
        return torch.zeros_like(truth.O)
    not_own = ("scores", "cast of P", "store of O", "fp32 overflow")
    own = sum_of({name: part for name, part in forward.terms.parts_O().items() if name not in not_own})
    d, near_0 = truth.O.shape[-1], forward.O.nan_to_num(0.0, 0.0) * r.u_io + r.tiny_io
    return own + near_0 + truth.O.abs() * ((min(d - 1, 2 * math.sqrt(d)) + 4) * r.u)


def _lost_outputs(truth: Truth, forward: Budget, kernel: Kernel) -> Tensor:
    """Rows (B, Hq, Nq, 1) with an element of O, stored, that may be no number: δ may be none either."""
    is_lost = truth.O.abs() + forward.O >= kernel.stored.max
    return is_lost.any(-1, keepdim=True) | forward.LSE.isposinf().unsqueeze(-1)


def _sums(problem: Problem, truth: Truth, g: Gradients, pairs: PairErrors, kernel: Kernel) -> dict[str, Sum]:
    """dQ, dK and dV as sums over pairs."""
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
    """dQ. The error of δ is one for the whole row: what it does to a sum of all P k is not what it does to each."""
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
    """What the terms of a sum may come to, cast."""
    return most + cast.most + errors["cast near 0"]


def _row_sum(a: Tensor, b: Tensor) -> Tensor:
    """Row sums of a product, keeping the dimension."""
    return torch.einsum("bhij,bhij->bhi", a, b.expand_as(a)).unsqueeze(-1)
