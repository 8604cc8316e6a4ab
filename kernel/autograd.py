"""Attention that torch's autograd can differentiate in q, k and v, through O and through LSE."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .backward import Gradients, flash_attn_backward
from .backward_paths import backward_half, parse_backward
from .forward import flash_attn_forward
from .tiles import TileConfig


def is_differentiated(q: Any, k: Any, v: Any) -> bool:
    """Whether autograd records a call on these; what is no tensor is for the forward pass to refuse."""
    try:
        return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    except AttributeError:
        return False


class FlashAttention(torch.autograd.Function):
    """(q, k, v, causal, seqlens_k, scale, config, deterministic) -> (O, LSE).

    Kept for the backward: q, k, v, O, LSE and seqlens_k.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        causal: bool | str,
        seqlens_k: torch.Tensor | None,
        scale: float | None,
        config: TileConfig | str | None,
        deterministic: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The forward pass; a config whose second half cannot be read is refused here already."""
        parse_backward(backward_half(config))
        o, lse = flash_attn_forward(q, k, v, causal, seqlens_k, scale, config)
        ctx.save_for_backward(q, k, v, o, lse, seqlens_k)
        ctx.arguments = causal, scale, config, deterministic
        ctx.set_materialize_grads(False)
        return o, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """DQ, dK and dV of those that need one."""
        return (*gradients(ctx, dO, dLSE, flash_attn_backward), None, None, None, None, None)


def gradients(ctx: Any, dO: torch.Tensor | None, dLSE: torch.Tensor | None, backward: Any) -> Gradients:
    """What a backward function gives for a context that kept a forward call; nothing where no output was used."""
    if dO is None and dLSE is None:
        return None, None, None
    q, k, v, o, lse, seqlens_k = ctx.saved_tensors
    causal, scale, config, deterministic = ctx.arguments
    needs = tuple(ctx.needs_input_grad[:3])
    return backward(dO, dLSE, q, k, v, o, lse, causal, seqlens_k, scale, config, needs, deterministic)
