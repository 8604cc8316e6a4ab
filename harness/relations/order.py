"""The order of the keys does not matter."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.attempt import Attempt
from harness.relations.base import Base, Claim
from harness.relations.registry import relation


def _sees_some_keys(attempt: Attempt) -> bool:
    return not attempt.case.features.causal and max(attempt.case.lengths) > 1


@relation(exact=None, when=_sees_some_keys)
def keys_reversed(base: Base) -> Iterator[Claim]:
    """Without a causal mask, the visible keys in the opposite order give the same.

    No kernel that sums in the order of the keys does so bit for bit: within twice the budget, always.
    """
    k, v = base.problem.k, base.problem.v
    lengths = torch.tensor(base.attempt.case.lengths, device=k.device)[:, None]
    place = torch.arange(k.shape[2], device=k.device)
    mirrored = torch.where(place < lengths, lengths - 1 - place, place)[:, None, :, None]
    k, v = (t.gather(2, mirrored.expand(t.shape)) for t in (k, v))
    yield from base.same(base.again(k=k, v=v), "With the visible keys in the opposite order", gradients=("dQ",))
