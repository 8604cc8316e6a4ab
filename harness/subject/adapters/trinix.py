"""trinix: its functional Triton attention, in (B, N, H, d)."""

from __future__ import annotations

from torch import Tensor
from trinix import triton_attn_func

from harness.subject.adapters._conventions import declares, refuse_empty, swapped

REQUIRES = "trinix"


@declares(gqa=False, devices=("cuda",))
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention of any two lengths; causal is upper-left."""
    refuse_empty(q, k)
    O: Tensor = triton_attn_func(*swapped(q, k, v), softmax_scale=scale, causal=causal)
    return O.transpose(1, 2)
