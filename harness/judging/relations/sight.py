"""Which keys the rows of a case see: conditions for relations to apply."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.judging.relations.base import Base
from harness.running.attempt import Attempt


def sees_keys(attempt: Attempt) -> bool:
    """Whether some row sees a key."""
    hidden = attempt.truth.hidden
    return min(attempt.truth.S.shape) > 0 and (hidden is None or not bool(hidden.all()))


def hides_keys(attempt: Attempt) -> bool:
    """Whether a key is hidden from some row."""
    hidden = attempt.truth.hidden
    return min(attempt.truth.S.shape) > 0 and hidden is not None and bool(hidden.any())


def hides_by_row(attempt: Attempt) -> bool:
    """Whether a key is hidden from some rows and seen by others of its batch entry."""
    hidden = attempt.truth.hidden
    return hides_keys(attempt) and hidden is not None and bool((hidden != hidden[:, :, :1]).any())


def has_empty_rows(attempt: Attempt) -> bool:
    """Whether some row sees no key."""
    hidden = attempt.truth.hidden
    return attempt.case.geometry.Nq > 0 and hidden is not None and bool(hidden.all(-1).any())


def keys_seen(attempt: Attempt) -> list[list[int]]:
    """Return the keys of each batch entry that some query sees."""
    g, hidden = attempt.case.geometry, attempt.truth.hidden
    if hidden is None:
        return [list(range(g.Nk))] * g.B
    seen = (~hidden).flatten(1, 2).any(1).expand(g.B, g.Nk)
    return [torch.nonzero(entry).flatten().tolist() for entry in seen]


def some_keys(attempt: Attempt) -> list[tuple[int, int]]:
    """Return (b, j) of the first, the middle and the last key that is seen, for each batch entry."""
    seen = [(b, keys) for b, keys in enumerate(keys_seen(attempt)) if keys]
    return [(b, j) for b, keys in seen for j in sorted({keys[0], keys[len(keys) // 2], keys[-1]})]


def visible(base: Base) -> Tensor:
    """Return which queries see which keys in some head, (B, Nq, Nk)."""
    (B, _, Nq, _), Nk = base.problem.q.shape, base.problem.k.shape[2]
    hidden = base.attempt.truth.hidden
    if hidden is None:
        return torch.ones(B, Nq, Nk, dtype=torch.bool, device=base.problem.q.device)
    return (~hidden).any(1).expand(B, Nq, Nk)
