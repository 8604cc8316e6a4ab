"""torch's `scaled_dot_product_attention` by whatever backend torch picks."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention of q (B, Hq, Nq, d) over k and v (B, Hk, Nk, d); causal is upper-left, as `is_causal` is."""
    gqa = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa)


attention.__flashattest__ = {"differentiable": True}  # type: ignore[attr-defined]
