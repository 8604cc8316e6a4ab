"""Relations: powers of two, and signs, pass through attention without rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.judging.relations.subnormals import is_scaled_in_bits
from harness.running.attempt import Attempt

FACTOR = 4.0
"""A power of four: its square root is a power of two, for kernels that split the scale between q and k."""

LEAST = 2.0**-100
"""fp32 and bf16 results below this may come from products that a device flushes to 0."""


def _takes_scale(attempt: Attempt) -> bool:
    """Whether a scale other than 0 can be given, and q has elements."""
    return "scale" in attempt.subject.keywords and attempt.case.scale != 0 and attempt.case.geometry.Nq > 0


def _is_given(base: Base) -> bool:
    """Whether the base call passes a scale: the subject's own default may be rounded differently."""
    return base.attempt.case.features.scale is not None


@relation(exact="scale_invariant", when=_takes_scale)
def scale_against_q(base: Base) -> Iterator[Claim]:
    """4q with scale/4 gives the same as q with scale: only the product counts.

    Bit for bit (if the scale was given, in rows of q without subnormal numbers) for a kernel that multiplies q or the
    scores by the scale and keeps them in range. Nothing is claimed where fp32 may overflow.
    """
    rows = is_scaled_in_bits(base.problem.q, -1)
    q = base.map_memory("q", lambda memory: memory * FACTOR)
    if _is_finite(q.tensor):
        other = base.again(q=q, scale=base.problem.scale / FACTOR)
        for claim in base.same(other, "With 4q and a quarter of the scale", gradients=("dK", "dV")):
            # If scale·dS is cast to fp16, a quarter of the scale loses four times as much near 0.
            budget = claim.budget if claim.tensor in ("O", "LSE") else (1 + FACTOR) / 2 * claim.budget
            here = rows if claim.tensor == "O" else rows[..., 0]
            yield _exact_where(base, replace(claim, budget=budget), here)


@relation(exact="scale_invariant", when=_takes_scale)
def sign_of_scale(base: Base) -> Iterator[Claim]:
    """-q with -scale gives the same as q with scale. Bit for bit (if the scale was given): signs round nothing."""
    other = base.again(q=base.map_memory("q", torch.neg), scale=-base.problem.scale)
    for claim in base.same(other, "With -q and the scale negated", gradients=("dK", "dV")):
        yield _exact_where(base, claim)


@relation(exact="scale_invariant", when=lambda attempt: attempt.case.geometry.Nq > 0)
def linear_in_v(base: Base) -> Iterator[Claim]:
    """4V gives 4·O and the same LSE.

    Bit for bit where no product or result is subnormal (fp16 rounds O differently there, and devices flush fp32's), nor
    any number in the column of V. Otherwise the allowed difference is the budget of both results, which grows with V.
    """
    v = base.map_memory("v", lambda memory: memory * FACTOR)
    if not _has_room(base.problem.v):
        return
    other = base.again(v=v)
    least = torch.finfo(base.O.dtype).smallest_normal if base.O.dtype is torch.float16 else LEAST
    # A number equal to the least normal one may have been rounded up to it, at the spacing of subnormal numbers.
    is_normal = (base.O.abs() > least) & base.budget.O.isfinite() & _columns(base)
    for claim in base.same(other, "With 4V", gradients=("dV",)):
        if claim.tensor == "O":
            yield replace(claim, wanted=base.O.double() * FACTOR, budget=FACTOR * claim.budget, exact=is_normal)
        else:
            yield claim


def _exact_where(base: Base, claim: Claim, here: Tensor | bool = True) -> Claim:
    """Make the claim exact for O and LSE at `here`, where the budget is finite, if the scale was given."""
    is_promised = claim.tensor in ("O", "LSE") and _is_given(base)
    return replace(claim, exact=claim.budget.isfinite() & here if is_promised else False)


def _columns(base: Base) -> Tensor:
    """Return the columns of O whose column of V may be scaled in bits, (B, Hq, 1, d)."""
    return is_scaled_in_bits(base.problem.v, -2).repeat_interleave(base.problem.group, dim=1)


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _has_room(v: Tensor) -> bool:
    """Whether 4·O is certainly finite; NaN and inf are the contents of hidden keys."""
    most = v.nan_to_num(0.0, 0.0, 0.0).abs().amax().item() if v.numel() else 0.0
    return most <= torch.finfo(v.dtype).max / (4 * FACTOR)
