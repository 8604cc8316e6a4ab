"""The forward pass on tensors: look the plan up, allocate O and LSE, launch."""

from __future__ import annotations

import torch

from .call.arguments import check_lengths
from .choose import plan_for
from .tiles.config import TileConfig


def flash_attn_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (B, Hq, Nq, d) over k, v (B, Hk, Nk, d): O like q, contiguous, and LSE (B, Hq, Nq) in fp32.

    The arguments and errors are those of `kernel.flash_attention`.
    """
    plan = plan_for(q, k, v, causal, seqlens_k, scale, config)
    if seqlens_k is not None:
        check_lengths(seqlens_k, k.shape[2])
    o = torch.empty_like(q, memory_format=torch.contiguous_format)
    # Sizes one by one are parsed faster than a torch.Size.
    B, Hq, Nq, _ = q.shape
    lse = torch.empty(B, Hq, Nq, dtype=torch.float32, device=q.device)
    plan.launch(q, k, v, o, lse, seqlens_k)
    return o, lse
