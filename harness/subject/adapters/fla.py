"""fla-core: the softmax attention of flash-linear-attention, which is always causal, in (B, N, H, d)."""

from __future__ import annotations

from fla.ops.attn.parallel import parallel_attn
from torch import Tensor

from harness.subject.adapters._conventions import declares, refuse, self_attention_alone, swapped

REQUIRES = "fla-core"


@declares()
def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """Attention with as many keys as queries, causal alone, d up to 256."""
    refuse(not causal, "it is always causal")
    self_attention_alone(q, k)
    O: Tensor = parallel_attn(*swapped(q, k, v), scale=scale)
    return O.transpose(1, 2)
