"""flash-attention-x: a Triton kernel with a function for each mask; its causal mask is lower-right."""

from __future__ import annotations

from typing import Any

from flash_attention_x import flash_attn_causal, flash_attn_full
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_empty

REQUIRES = "flash-attention-x"


@declares(
    dtypes=("fp16", "bf16"), head_dims=(16, 32, 64, 128), gqa=False, alignments=("lower_right",), devices=("cuda",)
)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), of any strides: it hands all of them to its kernel."""
    refuse_empty(q, k)
    O: Tensor = (flash_attn_causal if causal else flash_attn_full)(q, k, v, sm_scale=scale)
    return O
