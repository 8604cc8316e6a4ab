"""fasterkernels: the forward pass of FlashAttention-2 in Triton, without a mask."""

from __future__ import annotations

from fskernels.triton.triton_fa2 import flash_attention_2_fwd
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_empty

REQUIRES = "fasterkernels"


@declares(dtypes=("fp16", "bf16"), head_dims=(16, 32, 64, 128, 256), gqa=False, differentiable=False)
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), of any strides."""
    refuse_empty(q, k)
    O: Tensor = flash_attention_2_fwd(q, k, v, sm_scale=scale)
    return O
