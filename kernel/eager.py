"""The two passes on tensors, and the function that torch's autograd can differentiate, through O and through LSE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .call.arguments import Asked, Saved, as_backward_values, check_lengths
from .call.problem import Needs
from .choose import BACKWARD, backward_plan_of, halves, plan_for

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def flash_attn_forward(asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (B, Hq, Nq, d) over k, v (B, Hk, Nk, d): O like q, contiguous, and LSE (B, Hq, Nq) in fp32.

    The errors are those of `kernel.flash_attention`.
    """
    plan = plan_for(asked)
    q, k, v, seqlens_k = asked.q, asked.k, asked.v, asked.seqlens_k
    if seqlens_k is not None:
        check_lengths(seqlens_k, k.shape[2])
    o = torch.empty_like(q, memory_format=torch.contiguous_format)
    # Sizes one by one are parsed faster than a torch.Size.
    B, Hq, Nq, _ = q.shape
    lse = torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
    plan.launch(q, k, v, o, lse, seqlens_k)
    return o, lse


def flash_attn_backward(
    dO: torch.Tensor | None,
    dLSE: torch.Tensor | None,
    asked: Asked,
    O: torch.Tensor,
    LSE: torch.Tensor,
    needs: Needs = (True, True, True),
) -> Gradients:
    """dQ, dK and dV, contiguous and like q, k and v, from the gradients of O and LSE; None for what is not needed.

    Args:
        dO: (B, Hq, Nq, d) in q's dtype, any strides; None is 0.
        dLSE: (B, Hq, Nq) in fp32, any strides; None is 0.
        asked: the forward call; lengths out of range are clamped.
        O: what the forward call returned, in any layout.
        LSE: what the forward call returned.
        needs: which of dQ, dK and dV are wanted; only those are computed.

    Raises:
        TypeError, ValueError, NotImplementedError: as `kernel.flash_attention`.
    """
    q, k, v = asked.q, asked.k, asked.v
    if dO is None:
        # Stride 0 everywhere: no memory.
        dO = torch.zeros((), dtype=q.dtype, device=q.device).expand(q.shape)
    plan = backward_plan_of(as_backward_values(asked, Saved(dO, dLSE, O, LSE, needs)))
    dQ, dK, dV = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) if need else None
        for x, need in zip((q, k, v), needs, strict=True)
    )
    plan.launch(q, k, v, O, LSE.contiguous(), dO, dLSE, asked.seqlens_k, dQ, dK, dV)
    return dQ, dK, dV


def is_differentiated(q: Any, k: Any, v: Any) -> bool:
    """Whether autograd records a call on these; what is no tensor is for the forward pass to refuse."""
    try:
        return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    except AttributeError:
        return False


class FlashAttention(torch.autograd.Function):
    """The fields of `Asked` one by one -> (O, LSE)."""

    @staticmethod
    def forward(ctx: Any, *fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The forward pass; a config whose second half cannot be read is refused here already."""
        asked = Asked(*fields)
        BACKWARD.parse(halves(asked.config)[1])
        o, lse = flash_attn_forward(asked)
        keep(ctx, asked, o, lse)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """DQ, dK and dV of those that need one, and None for each other field."""
        return one_for_each_field(gradients(ctx, dO, dLSE, flash_attn_backward))


def keep(ctx: Any, asked: Asked, o: torch.Tensor, lse: torch.Tensor) -> None:
    """Keep a forward call for `gradients`: its tensors as autograd keeps them, which sees changes, and all else."""
    ctx.save_for_backward(asked.q, asked.k, asked.v, asked.seqlens_k, o, lse)
    ctx.asked = asked._replace(q=None, k=None, v=None, seqlens_k=None)  # type: ignore[arg-type]
    ctx.set_materialize_grads(False)


def gradients(
    ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None, backward: Callable[..., Gradients]
) -> Gradients:
    """What a function like `flash_attn_backward` gives for a kept call; nothing where no output was used."""
    if dO is None and dLSE is None:
        return None, None, None
    q, k, v, seqlens_k, o, lse = ctx.saved_tensors
    asked = ctx.asked._replace(q=q, k=k, v=v, seqlens_k=seqlens_k)
    needs = tuple(ctx.needs_input_grad[:3])
    return backward(dO, dLSE, asked, o, lse, needs)


def one_for_each_field(grads: Gradients) -> tuple[torch.Tensor | None, ...]:
    """The gradients of all fields of `Asked`: of its first three, and None."""
    return (*grads, *(None for _ in Asked._fields[3:]))
