"""Powers of two, and signs, pass through attention without a rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.judging.relations.subnormals import is_scaled_in_bits
from harness.running.attempt import Attempt

A = 4.0
"""A power of four: its square root is a power of two, for kernels that split the scale between q and k."""

LEAST = 2.0**-100
"""fp32 and bf16 results below this may come of products that a device flushes to 0."""


def _takes_scale(attempt: Attempt) -> bool:
    """Whether a scale can be given, and q has elements. Scale 0 has neither sign nor size to trade."""
    return "scale" in attempt.subject.keywords and attempt.case.scale != 0 and attempt.case.geometry.Nq > 0


def _is_given(base: Base) -> bool:
    """Where the base call left its scale to the subject, that may be rounded otherwise than the one given here."""
    return base.attempt.case.features.scale is not None


@relation(exact="scale_invariant", when=_takes_scale)
def scale_against_q(base: Base) -> Iterator[Claim]:
    """4q with scale/4 gives what q with scale gives: only the product counts.

    Bit for bit (where the scale was given, in rows of q without subnormal numbers) for a kernel that multiplies q or
    the scores by the scale and keeps them in range; where fp32 may overflow, the budget says nothing and neither does
    the relation.
    """
    rows = is_scaled_in_bits(base.problem.q, -1)
    q = base.mapped("q", lambda memory: memory * A)
    if _is_finite(q.tensor):
        other = base.again(q=q, scale=base.problem.scale / A)
        for claim in base.same(other, "With 4q and a quarter of the scale", gradients=("dK", "dV")):
            # Where scale·dS is cast to fp16, a quarter of the scale loses four times as much near 0.
            budget = claim.budget if claim.tensor in ("O", "LSE") else (1 + A) / 2 * claim.budget
            here = rows if claim.tensor == "O" else rows[..., 0]
            yield _exact_where(base, replace(claim, budget=budget), here)


@relation(exact="scale_invariant", when=_takes_scale)
def sign_of_scale(base: Base) -> Iterator[Claim]:
    """-q with -scale gives what q with scale gives. Bit for bit (where the scale was given): signs round nothing."""
    other = base.again(q=base.mapped("q", torch.neg), scale=-base.problem.scale)
    for claim in base.same(other, "With -q and the scale negated", gradients=("dK", "dV")):
        yield _exact_where(base, claim)


@relation(exact="scale_invariant", when=lambda attempt: attempt.case.geometry.Nq > 0)
def linear_in_v(base: Base) -> Iterator[Claim]:
    """4V gives 4·O and the same LSE.

    Bit for bit where no product or result is subnormal (fp16 rounds O otherwise there, and devices flush fp32's), nor
    any number in the column of V. Allowed otherwise is the budget of both results, which grows with V.
    """
    v = base.mapped("v", lambda memory: memory * A)
    if not _has_room(base.problem.v):
        return
    other = base.again(v=v)
    least = torch.finfo(base.O.dtype).smallest_normal if base.O.dtype is torch.float16 else LEAST
    # What is equal to the least normal number may have been rounded up to it, in the steps of subnormal ones.
    is_normal = (base.O.abs() > least) & base.budget.O.isfinite() & _columns(base)
    for claim in base.same(other, "With 4V", gradients=("dV",)):
        if claim.tensor == "O":
            yield replace(claim, wanted=base.O.double() * A, budget=A * claim.budget, exact=is_normal)
        else:
            yield claim


def _exact_where(base: Base, claim: Claim, here: Tensor | bool = True) -> Claim:
    """Bits are promised of O and LSE, here, where the budget promises a number, and the scale was given."""
    is_promised = claim.tensor in ("O", "LSE") and _is_given(base)
    return replace(claim, exact=claim.budget.isfinite() & here if is_promised else False)


def _columns(base: Base) -> Tensor:
    """Those of O whose column of V may be scaled in bits, (B, Hq, 1, d)."""
    return is_scaled_in_bits(base.problem.v, -2).repeat_interleave(base.problem.group, dim=1)


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _has_room(v: Tensor) -> bool:
    """Whether 4·O is sure to be finite; NaN and inf are what hidden keys hold."""
    most = v.nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if v.numel() else 0.0
    return most <= torch.finfo(v.dtype).max / (4 * A)
