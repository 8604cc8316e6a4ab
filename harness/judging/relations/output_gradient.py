"""Relations: gradients are linear in the gradients of the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim, LaidOut
from harness.judging.relations.gradients import budget_of, has_backward, same_gradients, sum_claim
from harness.judging.relations.registry import relation
from harness.judging.relations.subnormals import is_scaled_in_bits
from oracles.truth.products import over_group

FACTOR = 4.0

LEAST = 2.0**-90
"""Gradients below this, relative to the size of their terms, may come from products that a device flushes to 0."""


@relation(exact="scale_invariant", price=2, when=has_backward, of_gradients=True)
def linear_in_dO(base: Base) -> Iterator[Claim]:
    """4·dO, and 4·dLSE, give 4·dQ, 4·dK and 4·dV.

    Bit for bit for a deterministic subject where no product or result is subnormal, nor any number of dO in it. A cast
    of dS to fp16 rounds small numbers differently, so only dV, or a subject that does not cast, is bit-exact in fp16.
    Otherwise the allowed difference is the sum of both budgets.
    """
    if not all(_has_room(x) for x in (base.problem.dO, base.problem.dLSE)):
        return
    dO, dLSE = (_scaled(base, name) for name in ("dO", "dLSE"))
    other = base.again(dO=dO, dLSE=dLSE)
    for claim in same_gradients(base, other, "With 4·dO"):
        small = base.gradients[claim.tensor].abs() <= _least(base, claim.tensor)
        budget = FACTOR * budget_of(base.attempt, claim.tensor) + budget_of(other, claim.tensor)
        exact = ~small & budget.isfinite() & _made_of_normals(base, claim.tensor) & bool(claim.exact)
        yield replace(claim, wanted=base.gradients[claim.tensor].double() * FACTOR, budget=budget, exact=exact)


def _has_room(x: Tensor | None) -> bool:
    """Whether 4 times a tensor is certainly finite."""
    return x is None or _largest(x) <= torch.finfo(x.dtype).max / (2 * FACTOR)


def _scaled(base: Base, name: str) -> LaidOut | None:
    return None if getattr(base.problem, name) is None else base.map_memory(name, lambda memory: memory * FACTOR)


def _least(base: Base, name: str) -> float:
    """Return the size up to which a gradient need not scale bit for bit."""
    if base.O.dtype is torch.float16:
        is_cast = name != "dV" and base.attempt.subject.p_dtype != "fp32"
        return torch.inf if is_cast else torch.finfo(torch.float16).smallest_normal
    problem, g = base.problem, base.attempt.case.geometry
    largest = max(1.0, *(_largest(x) for x in (problem.q, problem.k, problem.v)))
    return LEAST * largest**2 * max(1.0, abs(problem.scale)) * (g.Nq * g.group + g.Nk)


def _made_of_normals(base: Base, name: str) -> Tensor:
    """Return where the part of dO that a gradient sums (its row, its column or all) may be scaled in bits."""
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

    Never bit for bit: the sums are rounded differently. The allowed difference is the sum of all three budgets.
    """
    is_even = torch.arange(base.problem.q.shape[2], device=base.O.device) % 2 == 0
    halves = (is_even, ~is_even)
    parts = [base.again(dO=_keep_rows(base, "dO", rows), dLSE=_keep_rows(base, "dLSE", rows)) for rows in halves]
    for name in base.gradients:
        if all(name in part.gradients for part in parts):
            wanted = torch.stack([part.gradients[name].double() for part in parts]).sum(0)
            budget = sum((budget_of(part, name) for part in parts), budget_of(base.attempt, name))
            yield sum_claim(base, name, wanted, budget, "Against the sum over dO's even rows and its odd rows")


def _keep_rows(base: Base, name: str, rows: Tensor) -> Tensor | None:
    """Return dO or dLSE with 0 in the other rows."""
    whole: Tensor | None = getattr(base.problem, name)
    if whole is None:
        return None
    return torch.where(rows[:, None] if name == "dO" else rows, whole, torch.zeros_like(whole))
