"""attn-gym: the causal block mask that it builds without a dense one, in a compiled FlexAttention."""

from __future__ import annotations

from typing import Any

from attn_gym.masks.causal import create_causal_block_mask_fast
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse
from harness.subject.adapters.flex_compiled import compiled_flex_attention

REQUIRES = "attn-gym"


@declares()
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Any:
    """Attention by `flex_attention`; causal is upper-left, as its `causal_mask` is."""
    refuse(not causal, "only its causal mask is asked for")
    mask = create_causal_block_mask_fast(q.shape[0], q.shape[1], q.shape[2], k.shape[2], q.device)
    return compiled_flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
