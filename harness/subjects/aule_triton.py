"""aule-attention: its Triton kernel, without a GPU too."""

from __future__ import annotations

from aule import flash_attention_triton
from torch import Tensor

from harness.subjects._conventions import declares, refuse_empty

REQUIRES = "aule-attention"


@declares(max_head_dim=128)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), d up to 128; causal is upper-left."""
    refuse_empty(q, k)
    O: Tensor = flash_attention_triton(q, k, v, causal=causal, scale=scale)
    return O
