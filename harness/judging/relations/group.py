"""Relation: the gradient of a shared head of K and V is the sum of its copies' gradients."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import budget_of, has_backward, sum_claim
from harness.judging.relations.registry import relation
from oracles.truth.products import over_group


@relation(exact=None, price=2, when=lambda a: has_backward(a) and a.case.geometry.group > 1, of_gradients=True)
def copies_add_up(base: Base) -> Iterator[Claim]:
    """With a head of K and V for each query head, dK and dV of a group's copies add up to those of the shared head.

    Never bit for bit: the copies' gradients are rounded before they are added. The allowed difference is the sum of all
    budgets.
    """
    group, Hk = base.attempt.case.geometry.group, base.attempt.case.geometry.Hk
    k, v = (t.repeat_interleave(group, dim=1) for t in (base.problem.k, base.problem.v))
    other = base.again(k=k, v=v)
    for name in ("dK", "dV"):
        if name in base.gradients and name in other.gradients:
            budget = budget_of(base.attempt, name) + over_group(budget_of(other, name), Hk)
            wanted = over_group(other.gradients[name].double(), Hk)
            yield sum_claim(base, name, wanted, budget, f"Against the sum of the gradients of {group} copies")
