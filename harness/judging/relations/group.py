"""A head of K and V that a group shares has the sum of its copies' gradients."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import added_up, budget_of, has_backward
from harness.judging.relations.registry import relation
from oracles.truth.products import over_group


@relation(exact=None, price=2, when=lambda a: has_backward(a) and a.case.geometry.group > 1, of_gradients=True)
def copies_add_up(base: Base) -> Iterator[Claim]:
    """With a head of K and V for each query head, dK and dV of a group's copies add up to those of the head it shares.

    Never bit for bit: the copies' are rounded before they are added. Allowed are the budgets of all.
    """
    group, Hk = base.attempt.case.geometry.group, base.attempt.case.geometry.Hk
    k, v = (t.repeat_interleave(group, dim=1) for t in (base.problem.k, base.problem.v))
    other = base.again(k=k, v=v)
    for name in ("dK", "dV"):
        if name in base.gradients and name in other.gradients:
            budget = budget_of(base.attempt, name) + over_group(budget_of(other, name), Hk)
            wanted = over_group(other.gradients[name].double(), Hk)
            yield added_up(base, name, wanted, budget, f"Beside the gradients of {group} copies added up")
