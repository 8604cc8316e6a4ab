"""flashnn: the FlashAttention module of its Triton kernels, in (B, N, H, d)."""

from __future__ import annotations

from flashnn import FlashAttention
from torch import Tensor

from harness.subject.adapters._conventions import UNIT_LAST_STRIDE, declares, self_attention_alone, swapped

REQUIRES = "flashnn"


@declares(dtypes=("fp16",), head_dims=(16, 32, 64, 128), layouts=UNIT_LAST_STRIDE)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention with as many keys as queries; causal is upper-left, the last stride 1."""
    self_attention_alone(q, k)
    O: Tensor = FlashAttention()(*swapped(q, k, v), causal, scale)
    return O.transpose(1, 2)
