"""What the relations of gradients share."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import ALL, Again, Base, Claim
from harness.running.attempt import Attempt


def has_backward(attempt: Attempt) -> bool:
    """Whether the case has a backward, over queries at all."""
    return attempt.case.operation == "forward_backward" and attempt.case.geometry.Nq > 0


def is_deterministic(base: Base) -> bool:
    """Whether the gradients are the same bits each time: what any promise of their bits takes for granted."""
    return "deterministic" in base.attempt.subject.exact


def budget_of(attempt: Attempt, name: str) -> Tensor:
    """The budget of a gradient by its name."""
    return attempt.judgement.budget(name)


def same_gradients(
    base: Base, other: Again, what: str, names: Collection[str] = ALL, *, kind: str | None = None
) -> Iterator[Claim]:
    """Claim that the gradients of another call are the base's, where both came.

    Bit for bit where the relation's property and "deterministic" are declared, else within twice the base's budget:
    for relations that leave the true gradients, and so their budget, as they are.
    """
    keeps_layout = not other.relaid or "layout_invariant" in base.attempt.subject.exact
    for name in names:
        if name in base.gradients and name in other.gradients:
            budget = 2 * budget_of(base.attempt, name)
            exact = keeps_layout and is_deterministic(base)
            yield Claim(name, other.gradients[name], base.gradients[name], budget, what, kind, exact)


def added_up(base: Base, name: str, parts: Tensor, budget: Tensor, what: str) -> Claim:
    """That a gradient is what its parts add up to, in float64; anything goes where a part is no number.

    The gradient may be inf where the sum, which has more room, passes the range of its dtype.
    """
    return Claim(name, base.gradients[name], parts, budget.masked_fill(~parts.isfinite(), torch.inf), what)
