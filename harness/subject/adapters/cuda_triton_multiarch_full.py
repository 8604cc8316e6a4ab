"""cuda-triton-multiarch: its batched Triton kernel with a causal mask (imported as `kernels`)."""

from __future__ import annotations

from kernels.flash_attention_full import flash_attention_full_triton
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse, self_attention_alone

REQUIRES = "cuda-triton-multiarch"


@declares(dtypes=("fp16",), head_dims=(16, 32, 64, 128), gqa=False)
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Attention in (B, H, N, d), as many keys as queries, all tensors in one layout."""
    self_attention_alone(q, k)
    refuse(not q.stride() == k.stride() == v.stride(), "all tensors have the same layout")
    O: Tensor = flash_attention_full_triton(q, k, v, causal=causal)
    return O
