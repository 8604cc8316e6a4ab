"""jvp-flash-attention: a Triton kernel with second derivatives, used here for its forward pass."""

from __future__ import annotations

from typing import Any

from jvp_flash_attention.jvp_attention import attention as jvp_attention
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse, self_attention_alone

REQUIRES = "jvp-flash-attention"


@declares(head_dims=(32, 64, 128, 256), gqa=False)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Any:
    """Attention in (B, H, N, d), as many keys as queries, an even number from 32 on."""
    self_attention_alone(q, k)
    refuse(q.shape[2] % 2 != 0 or q.shape[2] < 32, "it takes an even number of rows, at least 32")
    return jvp_attention(q, k, v, causal=causal, sm_scale=scale)
