"""flash-attn: FlashAttention-2 by its Python interface. Its causal mask is lower-right since 2.1."""

from __future__ import annotations

from typing import Any

from flash_attn import flash_attn_func, flash_attn_varlen_func
from torch import Tensor

from harness.subject.adapters._conventions import declares, packed, packed_queries, swapped, unpacked

REQUIRES = "flash-attn"


@declares(
    dtypes=("fp16", "bf16"), max_head_dim=256, alignments=("lower_right",), devices=("cuda",), differentiable=True
)
def attention(
    q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None, seqlens_k: Tensor | None = None
) -> Tensor:
    """Attention in (B, N, H, d), or packed where lengths are given; its LSE is for testing alone and left out."""
    asked = {"softmax_scale": scale, "causal": bool(causal)}
    if seqlens_k is None:
        (O,) = swapped(flash_attn_func(*swapped(q, k, v), **asked))
        return O
    ours, theirs = packed_queries(q), packed(seqlens_k, k, v)
    starts, longest = (ours.starts, theirs.starts), (ours.longest, theirs.longest)
    return unpacked(flash_attn_varlen_func(*ours.rows, *theirs.rows, *starts, *longest, **asked), q)
