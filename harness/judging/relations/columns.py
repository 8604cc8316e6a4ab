"""Relation: columns of zeros add nothing to a dot product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt


def _wider(attempt: Attempt) -> list[int]:
    """Return head dimensions that the subject takes: the next, the next multiple of 16, and 16 more than that."""
    d = attempt.case.geometry.d
    even = d // 16 * 16 + 16
    return [wider for wider in (d + 1, even, even + 16) if wider in attempt.subject.head_dims]


@relation(exact=None, when=lambda a: "scale" in a.subject.keywords and bool(_wider(a)))
def zero_columns(base: Base) -> Iterator[Claim]:
    """Zeros appended to q, k, v and dO along d, with the same scale, append zeros to O and gradients, and no more.

    Adding zeros rounds nothing, so the budget is that of the base. It is never bit for bit, as a wider tile may add in
    another order. The columns appended to O and to gradients are exactly 0 for every subject, except in rows where
    its own numbers may overflow: infinity times 0 is NaN.
    """
    d, problem = base.attempt.case.geometry.d, base.problem
    for wider in base.choices(_wider(base.attempt)):
        q, k, v = (pad(t, (0, wider - d)) for t in (problem.q, problem.k, problem.v))
        dO = None if problem.dO is None else pad(problem.dO, (0, wider - d))
        other = base.again(q=q, k=k, v=v, dO=dO, scale=problem.scale)
        what = f"With q, k and v padded with zeros to d = {wider}"
        for claim in base.same(other, what):
            if claim.tensor == "LSE":
                yield claim
            else:
                wanted = pad(claim.wanted, (0, wider - d))
                yield replace(claim, wanted=wanted, budget=_pad_budget(claim.budget, wider - d))


def _pad_budget(budget: Tensor, columns: int) -> Tensor:
    """Append columns of budget 0, or of inf in rows that a pair that overflows reaches.

    Such a pair reaches every column of the row; a column that overflows by itself does not reach the appended ones.
    """
    overflows = ~budget.isfinite().any(-1, keepdim=True)
    rest = budget.new_zeros(*budget.shape[:-1], columns).masked_fill(overflows, torch.inf)
    return torch.cat([budget, rest], -1)
