"""Relations: the weights of a row are positive and sum to 1."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.judging.relations.sight import sees_keys, some_keys
from harness.running.attempt import Attempt
from oracles.budget.scores import by_query_head


@relation(exact=None, price=2, when=sees_keys, needs=("sums_to_one",))
def ones_give_one(base: Base) -> Iterator[Claim]:
    """V = 1 gives O = 1, and 0 in a row that sees no key, however wrong the scores are.

    Never bit for bit: the sum of the cast weights is rounded differently from the row sum. The allowed difference is
    the budget for V = 1, to which errors of the scores do not contribute.
    """
    v = base.problem.v
    ones = base.again(v=torch.where(v.isfinite(), torch.ones_like(v), v))
    yield Claim("O", ones.O, ones.truth.O, ones.budget.O, "With V = 1")


@relation(exact="unit_weight", when=sees_keys, needs=("sums_to_one",))
def single_key(base: Base) -> Iterator[Claim]:
    """A single key gives its own V.

    Bit for bit if exp(S - max) is exactly 1, and so is the sum of one weight: a fused multiply-add of the scale
    leaves S - max at the rounding error of the max. Otherwise the allowed difference is the budget of a single key.
    """
    for b, j in base.choices(some_keys(base.attempt)):
        place = {"B": slice(b, b + 1), "Nk": slice(j, j + 1)}
        other = base.part(place, backward=False, **base.unmasked())
        wanted = base.cut(place).v.repeat_interleave(base.problem.group, dim=1).expand(other.O.shape)
        yield Claim("O", other.O, wanted, other.budget.O, f"With key {j} of batch entry {b} alone")


def _has_large_score_errors(attempt: Attempt) -> bool:
    """Whether score errors may be so large that the budget of O spans a good part of the hull of V."""
    terms = attempt.budget.terms
    return terms is not None and terms.weights.worst_e is not None


@relation(exact=None, when=_has_large_score_errors, needs=("prefix", "sums_to_one"))
def within_hull(base: Base) -> Iterator[Claim]:
    """O lies between the least and the largest visible V of its column, whatever the weights are.

    It needs no further call. The allowed difference is the budget without the part for wrong weights, so it is sharper
    than the budget only where scores are large.
    """
    terms = base.budget.terms
    assert terms is not None
    n = base.attempt.truth.visible_keys.long()
    bottom, top = (_at_last(base, extreme, n) for extreme in _running_extremes(base.attempt.truth.v))
    O = base.O.double()
    yield Claim("O", base.O, O.clamp(bottom, top), base.budget.O - terms.weights.moved, "O leaves the hull of V")


def _running_extremes(v: Tensor) -> tuple[Tensor, Tensor]:
    return v.cummin(dim=2).values, v.cummax(dim=2).values


def _at_last(base: Base, extremes: Tensor, n: Tensor) -> Tensor:
    """Return the extremes over the first n keys, (B, Hq, Nq, d): the keys that a row sees are always the first ones."""
    per_head = by_query_head(base.attempt.truth, extremes)
    place = (n - 1).clamp(min=0).expand(base.O.shape)
    return per_head.gather(2, place).masked_fill(n == 0, 0.0)
