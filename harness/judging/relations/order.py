"""Relation: the order of the keys does not matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import same_gradients
from harness.judging.relations.registry import relation


@relation(exact=None, when=lambda attempt: max(attempt.case.lengths) > 1, needs=("permutes_keys",))
def keys_reversed(base: Base) -> Iterator[Claim]:
    """Without a causal mask, the visible keys in the opposite order give the same, and have the same gradients.

    Never bit for bit, as kernels sum in the order of the keys: always within twice the budget.
    """
    k, v = base.problem.k, base.problem.v
    lengths = torch.tensor(base.attempt.case.lengths, device=k.device)[:, None]
    place = torch.arange(k.shape[2], device=k.device)
    mirrored = torch.where(place < lengths, lengths - 1 - place, place)[:, None, :, None]

    def reverse(x: Tensor) -> Tensor:
        return x.gather(2, mirrored.expand(x.shape))

    other, what = base.again(k=reverse(k), v=reverse(v)), "With the visible keys in the opposite order"
    yield from base.same(other, what, gradients=("dQ",))
    for claim in same_gradients(base, other, what, ("dK", "dV")):
        yield replace(claim, got=reverse(claim.got))
