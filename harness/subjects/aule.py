"""aule-attention: its public function, by whatever backend it picks (Triton, Vulkan or NumPy)."""

from __future__ import annotations

from aule import flash_attention
from torch import Tensor

from harness.subjects._conventions import declares, refuse_empty

REQUIRES = "aule-attention"


@declares(max_head_dim=128)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), d up to 128 by its Triton backend; causal is upper-left."""
    refuse_empty(q, k)
    O: Tensor = flash_attention(q, k, v, causal=causal, scale=scale)
    return O
