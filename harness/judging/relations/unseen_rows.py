"""Relations: a query that does not see a key does not affect that key's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.gradients import has_backward, same_gradients
from harness.judging.relations.registry import relation
from harness.judging.relations.sight import has_empty_rows, hides_by_row, visible
from harness.running.attempt import Attempt

KEY_GRADIENTS = ("dK", "dV")


def _hides_by_row(attempt: Attempt) -> bool:
    return has_backward(attempt) and hides_by_row(attempt)


@relation(exact="mask_invariant", when=_hides_by_row, of_gradients=True)
def causal_suffix(base: Base) -> Iterator[Claim]:
    """dK and dV at a key do not change if q, dO and dLSE are negated in the rows before the first that sees it.

    Bit for bit for a deterministic subject if a hidden key has weight 0.
    """
    Nq = base.problem.q.shape[2]
    for i in base.choices(range(1, Nq)):
        unseen = ~visible(base)[:, :i].any(dim=1)
        if unseen.any():
            rows = torch.arange(Nq, device=unseen.device) < i
            q, dO, dLSE = (_negate_rows(base, name, rows[None]) for name in ("q", "dO", "dLSE"))
            other = base.again(q=q, dO=dO, dLSE=dLSE)
            what = f"With other queries, and another dO, before row {i}"
            for claim in same_gradients(base, other, what, KEY_GRADIENTS):
                yield _at_keys(claim, unseen)


def _leaves_rows_empty(attempt: Attempt) -> bool:
    return has_backward(attempt) and has_empty_rows(attempt)


@relation(exact="mask_invariant", when=_leaves_rows_empty, of_gradients=True)
def dO_of_empty_rows(base: Base) -> Iterator[Claim]:
    """No gradient changes if dO and dLSE are negated in rows that see no key."""
    is_empty = ~visible(base).any(dim=2)
    if is_empty.any():
        dO, dLSE = (_negate_rows(base, name, is_empty) for name in ("dO", "dLSE"))
        yield from same_gradients(base, base.again(dO=dO, dLSE=dLSE), "With another dO where rows see no key")


def _negate_rows(base: Base, name: str, rows: Tensor) -> Tensor | None:
    """Return a tensor with some rows, (B or 1, Nq), negated."""
    whole: Tensor | None = getattr(base.problem, name)
    if whole is None:
        return None
    where = rows[:, None] if name == "dLSE" else rows[:, None, :, None]
    return torch.where(where, -whole, whole)


def _at_keys(claim: Claim, keys: Tensor) -> Claim:
    """Restrict a claim to some keys, (B, Nk)."""
    here = keys[:, None, :, None].expand(claim.budget.shape)
    return replace(claim, budget=claim.budget.masked_fill(~here, torch.inf), exact=here & bool(claim.exact))
