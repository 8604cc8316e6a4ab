"""Relation: a later call does not change what a call returned."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import ALWAYS_EXACT, relation

WHAT = "After a second call with other values, the output of the first changed"


@relation(exact=ALWAYS_EXACT)
def first_output_kept(base: Base) -> Iterator[Claim]:
    """A call with -q and -v changes neither what the first call returned nor its gradients: the caller owns them."""
    base.again(q=base.map_memory("q", torch.neg), v=base.map_memory("v", torch.neg))
    first = base.attempt.result
    yield Claim("O", first.output, base.O, base.budget.O, WHAT, kind="output_aliased")
    if first.lse is not None and base.LSE is not None:
        yield Claim("LSE", first.lse, base.LSE, base.budget.LSE, WHAT, kind="output_aliased")
    for name, before in base.gradients.items():
        budget = base.attempt.judgement.budget(name)
        yield Claim(name, first.found_gradients[name], before, budget, WHAT, kind="output_aliased")
