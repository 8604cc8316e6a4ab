"""Helpers of the relations about gradients."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import QKV_GRADIENTS, Base, Claim, FurtherCall
from harness.running.attempt import Attempt


def has_backward(attempt: Attempt) -> bool:
    """Whether the case has a backward, and queries."""
    return attempt.case.operation == "forward_backward" and attempt.case.geometry.Nq > 0


def is_deterministic(base: Base) -> bool:
    """Whether the subject declares the same bits each time: every other exactness of gradients relies on it."""
    return "deterministic" in base.attempt.subject.exact


def budget_of(attempt: Attempt, name: str) -> Tensor:
    """Return the budget of a gradient by its name."""
    return attempt.judgement.budget(name)


def same_gradients(
    base: Base, other: FurtherCall, what: str, names: Collection[str] = QKV_GRADIENTS, *, kind: str | None = None
) -> Iterator[Claim]:
    """Claim that the gradients of another call equal the base's, where both have them.

    Bit for bit if the relation's property and "deterministic" are declared, else within twice the base's budget:
    for relations that keep the true gradients, and so their budget.
    """
    keeps_layout = not other.relaid or "layout_invariant" in base.attempt.subject.exact
    for name in names:
        if name in base.gradients and name in other.gradients:
            budget = 2 * budget_of(base.attempt, name)
            exact = keeps_layout and is_deterministic(base)
            yield Claim(name, other.gradients[name], base.gradients[name], budget, what, kind, exact)


def sum_claim(base: Base, name: str, parts: Tensor, budget: Tensor, what: str) -> Claim:
    """Claim that a gradient equals the float64 sum of its parts; anything is allowed where a part is not finite.

    The gradient may be inf where the float64 sum passes the range of its dtype.
    """
    return Claim(name, base.gradients[name], parts, budget.masked_fill(~parts.isfinite(), torch.inf), what)
