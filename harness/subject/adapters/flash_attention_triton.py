"""flash-attention-triton: a Triton kernel that is always causal, upper-left, and computes in fp16."""

from __future__ import annotations

from flash_attention_triton import flash_attention_v2
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse, refuse_empty

REQUIRES = "flash-attention-triton"


@declares(dtypes=("fp16",), max_head_dim=128, gqa=False, devices=("cuda",))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), causal alone."""
    refuse(not causal, "it is always causal")
    refuse_empty(q, k)
    O: Tensor = flash_attention_v2(q, k, v, softmax_scale=scale)
    return O
