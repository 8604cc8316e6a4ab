"""Bounds how far errors of the scores move the weights, O and LSE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from oracles.budget.arithmetic import Arithmetic
from oracles.features import links, pairs_of
from oracles.truth.float64 import Truth
from oracles.truth.products import scores, weighted
from strategies import Problem

SMALL_SCORE_ERROR = 0.5
"""Score error up to which O cannot leave the hull of V."""
HUGE_SCORE_ERROR = 30.0
"""Score error above which only the hull of V bounds O: a weight may be off by a factor 1e13."""
LEAST_SCALE = 2.0**-100
"""Floor of |scale| in the score error: it keeps sums past fp32's range detectable, however small the scale."""


@dataclass(frozen=True)
class Perturbed:
    """Bounds of what a kernel computes with its own weights P'.

    moved (B, Hq, Nq, d): how far O' may be from O. magnitude (B, Hq, Nq, d): Σ P'|v| at most. drift (B, Hq, Nq, 1):
    how far LSE' may be from LSE. largest_e: the largest score error of all. worst_e (B, Hq, Nq, 1): the largest of
    each row, None if all are at most SMALL_SCORE_ERROR.
    """

    moved: Tensor
    magnitude: Tensor
    drift: Tensor
    largest_e: float
    worst_e: Tensor | None = None


def dot_error(terms: int, rounding: Arithmetic) -> float:
    """Return the error of a dot product of this many terms, relative to the sum of their absolute values."""
    return (min(terms - 1, 2 * math.sqrt(terms)) + 4) * rounding.u_dot


def score_errors(problem: Problem, truth: Truth, rounding: Arithmetic) -> Tensor:
    """Return e (B, Hq, Nq, Nk): exp(S) is off by a factor of at most exp(±e); 0 where hidden."""
    *_, e = stage_errors(problem, truth, rounding)
    e.add_(rounding.u_exp)
    return e if truth.hidden is None else e.masked_fill_(truth.hidden, 0.0)


def stage_errors(problem: Problem, truth: Truth, rounding: Arithmetic) -> list[Tensor]:
    """Return the errors of scale·q·k and of the score after each feature; the last ones enter the softmax.

    A feature multiplies an error by its steepest slope within that error, and adds its own rounding.
    """
    stages = (*truth.stages, truth.S)
    e = scores(truth.q.abs(), truth.k.abs())
    e.mul_(dot_error(problem.q.shape[-1], rounding) * max(abs(problem.scale), LEAST_SCALE))
    errors = [e.add_(stages[0].abs(), alpha=4 * rounding.u)]
    for (link, given), S, made in zip(links(problem), stages, stages[1:], strict=False):
        at = pairs_of(problem)
        passed = link.steepest(given, S, errors[-1], at) * errors[-1]
        errors.append(passed + link.rounds(given, S, made, at, rounding))
    return errors


def perturb(truth: Truth, e: Tensor) -> Perturbed:
    """Bound the effect of score errors e (B, Hq, Nq, Nk), overwriting e; formulas in `forward_budget`."""
    largest_e = e.amax().item()
    if largest_e <= SMALL_SCORE_ERROR:
        return _bound_effect(truth, e.expm1_(), largest_e)
    worst_e = e.amax(-1, keepdim=True)
    return _cap_by_hull(truth, _bound_effect(truth, e.clamp_(max=HUGE_SCORE_ERROR).expm1_(), largest_e), worst_e)


def _bound_effect(truth: Truth, E: Tensor, largest_e: float) -> Perturbed:
    per_l = truth.divisor.reciprocal()
    size_v, size_O = truth.v.abs(), truth.O.abs()
    WE = truth.W * E
    mean_E = WE.sum(-1, keepdim=True).mul_(per_l)
    mean_E2 = WE.mul(E).sum(-1, keepdim=True).mul_(per_l)
    mean_v, mean_v2 = weighted(truth.W, torch.cat((size_v, truth.v.square()), -1)).mul_(per_l).chunk(2, -1)
    mean_vE = weighted(WE, size_v).mul_(per_l)
    float64_noise = truth.k.shape[2] * 2.0**-52
    variance = torch.addcmul(mean_v2 * (1 + float64_noise), size_O, size_O, value=-1.0).clamp_(min=0.0)
    moved = torch.minimum(torch.addcmul(mean_vE, size_O, mean_E), variance.mul_(mean_E2).sqrt_())
    factor = 1 + mean_E
    return Perturbed(moved.mul_(factor), mean_vE.add_(mean_v).mul_(factor), mean_E.log1p(), largest_e)


def _cap_by_hull(truth: Truth, found: Perturbed, worst_e: Tensor) -> Perturbed:
    """Cap the bounds for weights that may be off by a large factor: O' stays in the hull of V, LSE' within worst_e."""
    is_huge = worst_e >= HUGE_SCORE_ERROR

    def cap(bound: Tensor, most: Tensor) -> Tensor:
        return torch.where(is_huge, most, torch.minimum(bound, most))

    bottom, top = (by_query_head(truth, extreme) for extreme in truth.v.aminmax(dim=2, keepdim=True))
    farthest = torch.maximum(top - truth.O, truth.O - bottom)
    largest = torch.maximum(top, -bottom)
    moved, magnitude, drift = cap(found.moved, farthest), cap(found.magnitude, largest), cap(found.drift, worst_e)
    return Perturbed(moved, magnitude, drift, found.largest_e, worst_e)


def visible(pairs: Tensor, truth: Truth) -> Tensor:
    """Return the numbers of pairs (B, Hq, Nq, Nk), with 0 where hidden."""
    return pairs if truth.hidden is None else pairs.masked_fill(truth.hidden, 0.0)


def by_query_head(truth: Truth, of_v: Tensor) -> Tensor:
    """Repeat (B, Hk, ...) to (B, Hq, ...)."""
    group = truth.q.shape[1] // truth.k.shape[1]
    return of_v if group == 1 else of_v.repeat_interleave(group, dim=1)
