"""flashattention2-custom-mask: a Triton kernel that takes a mask of its own for each batch entry and head."""

from __future__ import annotations

from typing import Any

import torch
from fa2_custom_mask import flash_attention_custom_mask
from torch import Tensor

from harness.subject.adapters._conventions import declares, self_attention_alone

REQUIRES = "flashattention2-custom-mask"


@declares(head_dims=(64, 128, 256), gqa=False, p_dtype="fp16", devices=("cuda",))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), as many keys as queries; the causal mask is handed over as any other would be."""
    self_attention_alone(q, k)
    (B, H, N, d) = q.shape
    mask = torch.ones(N, N, dtype=torch.int32, device=q.device).tril().expand(B, H, N, N) if causal else None
    O: Tensor = flash_attention_custom_mask(q, k, v, mask, d**-0.5 if scale is None else scale)
    return O
