"""Relation: dV does not depend on V, and dQ and dK are linear in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import has_backward, same_gradients
from harness.judging.relations.registry import relation


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def dV_of_any_v(base: Base) -> Iterator[Claim]:
    """-V gives the same dV, which depends only on P and dO, and -dQ and -dK if LSE has no gradient.

    Bit for bit for a deterministic subject: signs round nothing.
    """
    other = base.again(v=base.map_memory("v", torch.neg))
    what = "With -V"
    yield from same_gradients(base, other, what, ("dV",))
    if base.problem.dLSE is None:
        for claim in same_gradients(base, other, what, ("dQ", "dK")):
            yield replace(claim, wanted=-claim.wanted)
