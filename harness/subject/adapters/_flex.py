"""What the subjects of FlexAttention share: the mask of a call, and the call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask

from harness.subject.adapters._conventions import refuse_empty, refuse_poison
from harness.subject.declaration import Attention
from strategies.features.causal import CausalKind


def attention_by(flex_attention: Any) -> Attention:
    """Attention by a `flex_attention`, plain or compiled."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: CausalKind = False,
        scale: float | None = None,
        seqlens_k: Tensor | None = None,
        return_lse: bool = False,
    ) -> Any:
        refuse_empty(q, k)
        refuse_poison(k, v, seqlens_k)
        mask = block_mask(q, k, causal, seqlens_k)
        gqa = q.shape[1] != k.shape[1]
        if not return_lse:
            return flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=gqa)
        asked = AuxRequest(lse=True)
        O, more = flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=gqa, return_aux=asked)
        return O, more.lse

    return attention


def block_mask(q: Tensor, k: Tensor, causal: CausalKind, seqlens_k: Tensor | None) -> BlockMask | None:
    """The mask of a call; None where all queries see all keys."""
    if not causal and seqlens_k is None:
        return None
    (B, _, Nq, _), Nk = q.shape, k.shape[2]
    lengths = torch.full((B,), Nk, device=q.device) if seqlens_k is None else seqlens_k
    shift = lengths - Nq if causal == "lower_right" else torch.zeros_like(lengths)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = j < lengths[b]
        return seen & (j <= i + shift[b]) if causal else seen

    return create_block_mask(visible, B, None, Nq, Nk, device=q.device)
