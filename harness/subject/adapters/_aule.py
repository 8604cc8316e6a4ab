"""What the subjects of aule-attention share: what it declares, and the call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse_empty
from harness.subject.declaration import Attention


def attention_by(function: Any) -> Attention:
    """Attention in (B, H, N, d) by one of its functions, d up to 128; causal is upper-left."""

    @declares(max_head_dim=128)
    def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
        refuse_empty(q, k)
        O: Tensor = function(q, k, v, causal=causal, scale=scale)
        return O

    return attention
