"""Columns of zeros add nothing to a dot product."""

from __future__ import annotations

from collections.abc import Iterator

from torch.nn.functional import pad

from harness.attempt import Attempt
from harness.relations.base import Base, Claim
from harness.relations.registry import relation


def _wider(attempt: Attempt) -> list[int]:
    """Head dimensions that the subject takes: the next, the next multiple of 16, and 16 more than that."""
    d = attempt.case.geometry.d
    even = d // 16 * 16 + 16
    return [wider for wider in (d + 1, even, even + 16) if wider in attempt.subject.head_dims]


@relation(exact=None, when=lambda a: "scale" in a.subject.keywords and bool(_wider(a)))
def zero_columns(base: Base) -> Iterator[Claim]:
    """Zeros appended to q, k and v along d, with the same scale, leave O and LSE and append zeros to O.

    Adding zeros rounds nothing, so the budget is that of the base; but a wider tile may add in another order, so it is
    never bit for bit. The columns appended to O are exactly 0 for every subject.
    """
    d = base.attempt.case.geometry.d
    for wider in base.choices(_wider(base.attempt)):
        q, k, v = (pad(t, (0, wider - d)) for t in (base.problem.q, base.problem.k, base.problem.v))
        other = base.again(q=q, k=k, v=v, scale=base.problem.scale)
        what = f"With q, k and v padded with zeros to d = {wider}"
        for claim in base.same(other, what):
            if claim.tensor == "O":
                zeros = pad(base.O, (0, wider - d))
                yield Claim("O", claim.got, zeros, pad(claim.budget, (0, wider - d)), what)
            else:
                yield claim
