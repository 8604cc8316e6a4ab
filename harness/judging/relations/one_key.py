"""Relation: the weight of a row's only key is 1, whatever its score, so q and k have no gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import budget_of, has_backward
from harness.judging.relations.registry import relation
from harness.judging.relations.sight import sees_keys, some_keys
from harness.running.attempt import Attempt
from oracles.truth.products import over_group


def _sees_keys(attempt: Attempt) -> bool:
    return has_backward(attempt) and sees_keys(attempt)


@relation(exact=None, price=2, when=_sees_keys, of_gradients=True, needs=("sums_to_one",))
def single_key_gradients(base: Base) -> Iterator[Claim]:
    """A single key has dQ = 0, dK = 0, and dV equal to the sum of dO over the rows of its group.

    Never bit for bit: δ and dP are equal, but rounded differently. Allowed is the budget of a single key.
    There is no dLSE, which would reach dQ and dK.
    """
    for b, j in base.choices(some_keys(base.attempt)):
        place = {"B": slice(b, b + 1), "Nk": slice(j, j + 1)}
        alone = base.cut(place)
        assert alone.dO is not None
        other = base.part(place, return_lse=False, **base.unmasked())
        summed = over_group(alone.dO.double().sum(2, keepdim=True), alone.k.shape[1])
        wanted_of = {"dQ": torch.zeros_like(alone.q), "dK": torch.zeros_like(alone.k), "dV": summed}
        for name, wanted in wanted_of.items():
            if name in other.gradients:
                what = f"With key {j} of batch entry {b} alone"
                yield Claim(name, other.gradients[name], wanted, budget_of(other, name), what)
