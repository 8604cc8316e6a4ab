"""Gradients are linear in the gradients of the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim, Laid
from harness.judging.relations.gradients import added_up, budget_of, has_backward, same_gradients
from harness.judging.relations.registry import relation
from harness.judging.relations.subnormals import is_scaled_in_bits
from oracles.truth.products import over_group

A = 4.0

LEAST = 2.0**-90
"""Gradients below this, in units of what they are made of, may come of products that a device flushes to 0."""


@relation(exact="scale_invariant", price=2, when=has_backward, of_gradients=True)
def linear_in_dO(base: Base) -> Iterator[Claim]:
    """4·dO, and 4·dLSE, give 4·dQ, 4·dK and 4·dV.

    Bit for bit for a deterministic subject where no product or result is subnormal, nor any number of dO that it is
    made of: a cast of dS to fp16 rounds small numbers otherwise, so only dV, or a subject that does not cast, is held
    to its bits there. Allowed otherwise are the budgets of both.
    """
    if not all(_has_room(x) for x in (base.problem.dO, base.problem.dLSE)):
        return
    dO, dLSE = (_times(base, name) for name in ("dO", "dLSE"))
    other = base.again(dO=dO, dLSE=dLSE)
    for claim in same_gradients(base, other, "With 4·dO"):
        small = base.gradients[claim.tensor].abs() <= _least(base, claim.tensor)
        budget = A * budget_of(base.attempt, claim.tensor) + budget_of(other, claim.tensor)
        exact = ~small & budget.isfinite() & _made_of_normals(base, claim.tensor) & bool(claim.exact)
        yield replace(claim, wanted=base.gradients[claim.tensor].double() * A, budget=budget, exact=exact)


def _has_room(x: Tensor | None) -> bool:
    """Whether 4 times a tensor is sure to be finite."""
    return x is None or _largest(x) <= torch.finfo(x.dtype).max / (2 * A)


def _times(base: Base, name: str) -> Laid | None:
    return None if getattr(base.problem, name) is None else base.mapped(name, lambda memory: memory * A)


def _least(base: Base, name: str) -> float:
    """The size up to which a gradient need not scale bit for bit."""
    if base.O.dtype is torch.float16:
        is_cast = name != "dV" and base.attempt.subject.p_dtype != "fp32"
        return torch.inf if is_cast else torch.finfo(torch.float16).smallest_normal
    problem, g = base.problem, base.attempt.case.geometry
    largest = max(1.0, *(_largest(x) for x in (problem.q, problem.k, problem.v)))
    return LEAST * largest**2 * max(1.0, abs(problem.scale)) * (g.Nq * g.group + g.Nk)


def _made_of_normals(base: Base, name: str) -> Tensor:
    """Where what a gradient sums of dO, its row or column or all of it, may be scaled in bits."""
    dO = base.problem.dO
    assert dO is not None
    if name == "dQ":
        return is_scaled_in_bits(dO, -1)
    columns = is_scaled_in_bits(dO, -2)
    of_heads = columns if name == "dV" else columns.all(-1, keepdim=True)
    return over_group((~of_heads).long(), base.problem.k.shape[1]) == 0


def _largest(x: Tensor) -> float:
    return x.nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if x.numel() else 0.0


@relation(exact=None, price=4, when=lambda a: has_backward(a) and a.case.geometry.Nq > 1, of_gradients=True)
def dO_adds_up(base: Base) -> Iterator[Claim]:
    """The gradients of dO's even rows and those of its odd rows, each with 0 for the others, add up to those of dO.

    Never bit for bit: the sums are rounded otherwise. Allowed are the budgets of all three.
    """
    is_even = torch.arange(base.problem.q.shape[2], device=base.O.device) % 2 == 0
    parts = [base.again(dO=_only(base, "dO", rows), dLSE=_only(base, "dLSE", rows)) for rows in (is_even, ~is_even)]
    for name in base.gradients:
        if all(name in part.gradients for part in parts):
            wanted = torch.stack([part.gradients[name].double() for part in parts]).sum(0)
            budget = sum((budget_of(part, name) for part in parts), budget_of(base.attempt, name))
            yield added_up(base, name, wanted, budget, "Beside those of dO's even rows and of its odd ones, added up")


def _only(base: Base, name: str, rows: Tensor) -> Tensor | None:
    """dO or dLSE with 0 in the other rows."""
    whole: Tensor | None = getattr(base.problem, name)
    if whole is None:
        return None
    return torch.where(rows[:, None] if name == "dO" else rows, whole, torch.zeros_like(whole))
