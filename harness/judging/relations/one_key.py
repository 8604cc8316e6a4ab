"""The weight of a row's only key is 1, whatever its score: nothing can be gained by moving q or k."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import budget_of, has_backward
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt
from oracles.truth.products import over_group


def _has_keys(attempt: Attempt) -> bool:
    return has_backward(attempt) and max(attempt.case.lengths) > 0


@relation(exact=None, price=2, when=_has_keys, of_gradients=True)
def single_key_gradients(base: Base) -> Iterator[Claim]:
    """A key that is the only one has dK = 0, and dV the sum of dO over the rows of its group; dQ is 0.

    Never bit for bit: δ and dP are equal, and rounded each in its own way. Allowed is the budget of a single key. The
    gradient of LSE, which would come through, is left out.
    """
    problem, lengths, dO = base.problem, base.attempt.case.lengths, base.problem.dO
    assert dO is not None
    keys = [(b, j) for b, length in enumerate(lengths) for j in sorted({0, length // 2, length - 1}) if length > 0]
    for b, j in base.choices(keys):
        entry, key = slice(b, b + 1), slice(j, j + 1)
        q, k, v = problem.q[entry], problem.k[entry, :, key], problem.v[entry, :, key]
        other = base.again(q=q, k=k, v=v, dO=dO[entry], causal=False, seqlens_k=None, return_lse=False)
        summed = over_group(dO[entry].double().sum(2, keepdim=True), k.shape[1])
        for name, wanted in (("dQ", torch.zeros_like(q)), ("dK", torch.zeros_like(k)), ("dV", summed)):
            if name in other.gradients:
                what = f"With key {j} of batch entry {b} alone"
                yield Claim(name, other.gradients[name], wanted, budget_of(other, name), what)
