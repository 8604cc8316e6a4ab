"""The backward pass on tensors: look the plan up, allocate the gradients that are wanted, launch."""

from __future__ import annotations

import torch

from .backward_arguments import Needs, as_backward_values
from .backward_paths import backward_plan_of
from .tiles import TileConfig

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def flash_attn_backward(
    dO: torch.Tensor | None,
    dLSE: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    O: torch.Tensor,
    LSE: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
    needs: Needs = (True, True, True),
    deterministic: bool = False,
) -> Gradients:
    """dQ, dK and dV, contiguous and like q, k and v, from the gradients of O and LSE; None for what is not needed.

    Args:
        dO: (B, Hq, Nq, d) in q's dtype, any strides; None is 0.
        dLSE: (B, Hq, Nq) in fp32, any strides; None is 0.
        q: as in the forward call, and so are k, v, causal, seqlens_k, scale and config.
        k: see q.
        v: see q.
        O: what the forward call returned, in any layout.
        LSE: what the forward call returned.
        causal: see q.
        seqlens_k: see q; lengths out of range are clamped.
        scale: see q.
        config: see q.
        needs: which of dQ, dK and dV are wanted; only those are computed.
        deterministic: the same bits in every run, as `torch.use_deterministic_algorithms(True)` asks for them too.

    Raises:
        TypeError, ValueError, NotImplementedError: as `kernel.flash_attention`.
    """
    if dO is None:
        # Stride 0 everywhere: no memory.
        dO = torch.zeros((), dtype=q.dtype, device=q.device).expand(q.shape)
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    values = as_backward_values(dO, dLSE, q, k, v, O, LSE, causal, seqlens_k, scale, config, needs, deterministic)
    plan = backward_plan_of(values)
    like = (q, k, v)
    grads = [
        torch.empty(x.shape, dtype=x.dtype, device=x.device) if need else None
        for x, need in zip(like, needs, strict=True)
    ]
    plan.launch(q, k, v, O, LSE.contiguous(), dO, dLSE, seqlens_k, *grads)
    return tuple(grads)
