"""V reaches dV nowhere, and dQ and dK as a factor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import has_backward, same_gradients
from harness.judging.relations.registry import relation


@relation(exact="deterministic", when=has_backward, of_gradients=True)
def dV_of_any_v(base: Base) -> Iterator[Claim]:
    """-V gives the same dV, which is made of P and dO alone, and -dQ and -dK where LSE has no gradient.

    Bit for bit for a deterministic subject: signs round nothing.
    """
    other = base.again(v=base.mapped("v", torch.neg))
    what = "With -V"
    yield from same_gradients(base, other, what, ("dV",))
    if base.problem.dLSE is None:
        for claim in same_gradients(base, other, what, ("dQ", "dK")):
            yield replace(claim, wanted=-claim.wanted)
