"""Relations: keys that a query does not see do not affect it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.judging.relations.sight import hides_by_row, hides_keys, visible

FILLS = ("nan", "inf", "huge", "negated")


@relation(exact="mask_invariant", when=hides_by_row)
def causal_prefix(base: Base) -> Iterator[Claim]:
    """Rows up to i do not change if the keys that none of them sees are negated, in K and in V.

    Bit for bit if a hidden key has weight 0 and no part in the row's maximum.
    """
    Nq = base.problem.q.shape[2]
    for i in base.choices(range(Nq)):
        hidden = ~visible(base)[:, : i + 1].any(dim=1)
        if hidden.any():
            k, v = (_fill_where(t, hidden, -t) for t in (base.problem.k, base.problem.v))
            rows = (slice(None), slice(None), slice(0, i + 1))
            what = f"With other keys where rows to {i} see none"
            yield from base.same(base.again(k=k, v=v), what, here=rows, there=rows)


@relation(exact="mask_invariant", when=hides_keys)
def noninterference(base: Base) -> Iterator[Claim]:
    """Keys that no query of their batch entry sees may hold NaN, inf, the largest number or other numbers.

    Past the lengths any number is allowed, for every subject. A key that only a mask hides is replaced by a non-finite
    number only for a subject that declares mask_invariant: others may multiply it by a weight of 0.
    """
    seen = visible(base).any(dim=1)
    past_end = torch.arange(seen.shape[-1], device=seen.device) >= _lengths(base)
    harmless = ~seen if "mask_invariant" in base.attempt.subject.exact else past_end
    for fill in base.choices(FILLS):
        hidden = ~seen if fill == "negated" else harmless
        if hidden.any():
            k, v = (_fill_where(t, hidden, _fill(fill, t)) for t in (base.problem.k, base.problem.v))
            yield from base.same(base.again(k=k, v=v), f"With hidden keys {fill}")


def _lengths(base: Base) -> Tensor:
    return torch.tensor(base.attempt.case.lengths, device=base.problem.q.device)[:, None]


def _fill(name: str, tensor: Tensor) -> Tensor:
    if name == "negated":
        return -tensor
    number = {"nan": float("nan"), "inf": float("inf"), "huge": torch.finfo(tensor.dtype).max}[name]
    return torch.full_like(tensor, number)


def _fill_where(tensor: Tensor, where: Tensor, fill: Tensor) -> Tensor:
    return torch.where(where[:, None, :, None], fill, tensor)
