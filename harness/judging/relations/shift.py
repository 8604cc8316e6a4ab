"""Relation: a vector added to all keys does not change the softmax, and shifts LSE."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim, FurtherCall
from harness.judging.relations.gradients import budget_of
from harness.judging.relations.registry import relation
from harness.judging.relations.sight import sees_keys


@relation(
    exact=None, price=4, when=lambda attempt: attempt.case.scale != 0 and sees_keys(attempt), needs=("shift_invariant",)
)
def common_vector(base: Base) -> Iterator[Claim]:
    """A vector c added to every key keeps O and moves LSE by scale·q·c.

    A row of dS sums to 0, or to the gradient of LSE: so dQ moves by scale·dLSE·c, and dK and dV do not move.

    K is first rounded to a grid on which K + c is a number of its dtype, so that both problems are exact. Never bit
    for bit, since all scores change: the allowed difference is the sum of both budgets.
    """
    k = base.problem.k
    grid, c = _grid_and_vector(k)
    if c is None:
        return
    rounded = ((k.double() / grid).round() * grid).to(k.dtype)
    plain = base.again(k=rounded, return_lse=_gives_lse(base))
    moved = base.again(k=rounded + c, return_lse=_gives_lse(base))
    what = "With a vector added to every key"
    yield Claim("O", moved.O, plain.O, plain.budget.O + moved.budget.O, what)
    if plain.LSE is not None and moved.LSE is not None:
        shift = base.problem.scale * (base.problem.q.double() @ c.double())
        yield Claim("LSE", moved.LSE, plain.LSE + shift, plain.budget.LSE + moved.budget.LSE, what)
    for name in plain.gradients.keys() & moved.gradients.keys():
        wanted = plain.gradients[name].double() + (_through_lse(plain, c) if name == "dQ" else 0.0)
        yield Claim(name, moved.gradients[name], wanted, budget_of(plain, name) + budget_of(moved, name), what)


def _through_lse(plain: FurtherCall, c: Tensor) -> Tensor:
    """Return how far c in every key moves dQ: scale·dLSE·c, in rows that see a key."""
    dLSE = plain.pristine.dLSE
    if dLSE is None:
        return c.new_zeros(1, dtype=torch.float64)
    sees = (plain.truth.visible_keys > 0).squeeze(-1)
    return (plain.pristine.scale * dLSE.double() * sees)[..., None] * c.double()


def _gives_lse(base: Base) -> bool:
    return "return_lse" in base.attempt.subject.keywords


def _grid_and_vector(k: Tensor) -> tuple[float, Tensor | None]:
    """Return a grid that holds K and K + c, and the vector c (d,) of powers of two, about twice as large as K."""
    numbers = torch.finfo(k.dtype)
    largest = k.nan_to_num(0.0, 0.0, 0.0).abs().amax().item()
    if not 2.0**-100 < largest < numbers.max / 8:
        return 0.0, None
    size = 2.0 ** (math.ceil(math.log2(largest)) + 1)
    grid = max(size * numbers.eps, numbers.smallest_normal * numbers.eps)
    signs = 1 - 2 * (torch.arange(k.shape[3], device=k.device) % 2)
    return grid, (signs * size).to(k.dtype)
