"""flash-attn-4: FlashAttention in CuTe DSL, for Hopper and newer. Causal is lower-right; lengths need no packing."""

from __future__ import annotations

from typing import Any

from flash_attn.cute import flash_attn_func, flash_attn_varlen_func
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_poison, swapped

REQUIRES = "flash-attn-4"


@declares(dtypes=("fp16", "bf16"), head_dims=tuple(range(8, 129, 8)), alignments=("lower_right",), devices=("cuda",))
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: Any = False,
    scale: float | None = None,
    seqlens_k: Tensor | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention in (B, N, H, d). It says that what stands past `seqused_k` must be finite."""
    refuse_poison(k, v, seqlens_k)
    asked = {"softmax_scale": scale, "causal": bool(causal), "return_lse": return_lse}
    if seqlens_k is None:
        O, LSE = flash_attn_func(*swapped(q, k, v), **asked)
    else:
        O, LSE = flash_attn_varlen_func(*swapped(q, k, v), seqused_k=seqlens_k, **asked)
    return (*swapped(O), LSE) if return_lse else O.transpose(1, 2)
