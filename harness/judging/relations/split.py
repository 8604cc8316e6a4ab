"""Relation: parts of the keys, merged by their LSE, equal one pass."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim, FurtherCall
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt


def _can_be_split(attempt: Attempt) -> bool:
    g = attempt.case.geometry
    return "return_lse" in attempt.subject.keywords and g.Nk > 0 and g.Nq > 0


@relation(exact=None, price=4, when=_can_be_split, needs=("splits", "sums_to_one"))
def split_and_merged(base: Base) -> Iterator[Claim]:
    """The keys before and after a cut, each called alone, merge by LSE = log Σ exp LSE_i, O = Σ exp(LSE_i - LSE) O_i.

    Parts are unequal, and empty if the cut is at 0 or past a length. Under an upper-left mask the rows from the cut on
    see all of the first part, and the second part under an upper-left mask again. The merge is done in float64, so the
    allowed difference is the propagated error of the parts' O and LSE, and the base's own budget.
    """
    Nk, is_causal = base.attempt.case.geometry.Nk, bool(base.attempt.case.features.causal)
    for cut in base.choices(sorted({0, 1, Nk // 3, Nk // 2, Nk - 1})):
        rows = slice(cut if is_causal else 0, None)
        if base.O[:, :, rows].numel() == 0:
            continue
        before = base.part({"Nq": rows, "Nk": slice(0, cut)}, causal=False, return_lse=True, backward=False)
        after = base.part({"Nq": rows, "Nk": slice(cut, Nk)}, return_lse=True, backward=False)
        yield from _merge(base, (slice(None), slice(None), rows), (before, after), f"Keys split at {cut} and merged")


def _merge(base: Base, rows: tuple[slice, ...], parts: tuple[FurtherCall, FurtherCall], what: str) -> Iterator[Claim]:
    lses = [_lse(part) for part in parts]
    LSE = torch.logaddexp(*lses)
    shares = [(lse - LSE).exp().masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1) for lse in lses]
    drift = torch.maximum(parts[0].budget.LSE, parts[1].budget.LSE)
    misweighed = (2 * drift).expm1().unsqueeze(-1)
    O, allowed = torch.zeros_like(base.budget.O[rows]), base.budget.O[rows]
    for share, part in zip(shares, parts, strict=True):
        found, budget = part.O.double(), part.budget.O
        O = O + share * found
        allowed = allowed + share * (budget + misweighed * (found.abs() + budget))
    # 0 times a budget of inf: nothing is promised there.
    yield Claim("O", O, base.O[rows], allowed.nan_to_num(torch.inf, torch.inf), what)
    if base.LSE is not None:
        yield Claim("LSE", LSE, base.LSE[rows], base.budget.LSE[rows] + drift, what)


def _lse(part: FurtherCall) -> Tensor:
    assert part.LSE is not None
    return part.LSE.double()
