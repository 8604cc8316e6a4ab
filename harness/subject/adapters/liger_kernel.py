"""liger-kernel: its neighborhood attention with a neighborhood that holds every key, which is plain attention."""

from __future__ import annotations

from liger_kernel.transformers.functional import liger_fused_neighborhood_attention
from torch import Tensor

from harness.subject.adapters._conventions import declares, self_attention_alone

REQUIRES = "liger-kernel"


@declares(dtypes=("fp32",), gqa=False)
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Attention in (B, H, N, d), as many keys as queries; in fp32, since it keeps the scores in the input dtype."""
    self_attention_alone(q, k)
    O: Tensor = liger_fused_neighborhood_attention(q, k, v, kernel_size=2 * q.shape[2] + 1, scale=scale)
    return O
