"""cuda-triton-multiarch: its public attention (imported as `kernels`), by whatever backend it picks."""

from __future__ import annotations

from kernels import flash_attention_bhsd
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_empty

REQUIRES = "cuda-triton-multiarch"


@declares(dtypes=("fp16",), head_dims=(16, 32, 64, 128), gqa=False, devices=("cuda",))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Attention in (B, H, N, d); it computes in fp16, and on a CPU it is torch's SDPA."""
    refuse_empty(q, k)
    O: Tensor = flash_attention_bhsd(q, k, v, is_causal=causal)
    return O
