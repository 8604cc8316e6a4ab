"""fastflash-attention: exact bf16 attention in Triton, a drop-in for torch's SDPA within a strict contract."""

from __future__ import annotations

from fastflash_attention import UnsupportedConfig, fast_attention
from torch import Tensor

from harness.subject.adapters._conventions import declares

REQUIRES = "fastflash-attention"


@declares(dtypes=("bf16",), head_dims=(1, 2, 4, 8, 16, 32, 64, 128), gqa=False, devices=("cuda",))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d); what it calls unsupported is a refusal."""
    try:
        O: Tensor = fast_attention(q, k, v, is_causal=causal, scale=scale)
    except UnsupportedConfig as error:
        raise NotImplementedError(str(error)) from error
    return O
