"""Relations: the choice of gradients changes neither them nor the forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import has_backward, same_gradients
from harness.judging.relations.registry import relation
from strategies.case import NEEDS

SOME_BEFORE_ALL = (*NEEDS[1:], NEEDS[0])


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def other_gradients_wanted(base: Base) -> Iterator[Claim]:
    """A gradient is the same whichever others are wanted: bit for bit for a deterministic subject."""
    own = set(base.attempt.case.needs_grad)
    others = [wanted for wanted in SOME_BEFORE_ALL if set(wanted) != own and own & set(wanted)]
    for wanted in base.choices(others):
        other = base.again(needs_grad=wanted)
        yield from same_gradients(base, other, f"With gradients wanted of {', '.join(wanted)}")


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def forward_without_gradient(base: Base) -> Iterator[Claim]:
    """O and LSE are the same if no gradient is wanted: bit for bit for a deterministic subject."""
    yield from base.same(base.again(backward=False), "Where no gradient is wanted")
