"""xformers: `memory_efficient_attention` by whatever operator it picks, in (B, M, H, K)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from xformers.ops import LowerTriangularMask, memory_efficient_attention
from xformers.ops.fmha.attn_bias import (
    BlockDiagonalCausalWithOffsetPaddedKeysMask,
    BlockDiagonalPaddedKeysMask,
    LowerTriangularFromBottomRightMask,
)

from harness.subject.adapters._conventions import UNIT_LAST_STRIDE, declares, refuse, swapped

REQUIRES = "xformers"
_CAUSAL = {True: LowerTriangularMask, "lower_right": LowerTriangularFromBottomRightMask}


@declares(alignments=("upper_left", "lower_right"), layouts=UNIT_LAST_STRIDE, devices=("cuda",), differentiable=True)
def attention(
    q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None, seqlens_k: Tensor | None = None
) -> Tensor:
    """Attention with grouped heads as a dimension of their own, and lengths as padded blocks."""
    (B, Hq, Nq, d), (_, Hk, Nk, _) = q.shape, k.shape
    q, k, v = swapped(q, k, v)
    mask = _CAUSAL[causal]() if causal else None
    if seqlens_k is not None:
        refuse(causal is True, "with lengths its causal masks are lower-right")
        kind = BlockDiagonalCausalWithOffsetPaddedKeysMask if causal else BlockDiagonalPaddedKeysMask
        mask = kind.from_seqlens([Nq] * B, kv_padding=Nk, kv_seqlen=seqlens_k.tolist())
        q, k, v = (t.reshape(1, -1, t.shape[2], d) for t in (q, k, v))
    if Hq != Hk:
        q = q.reshape(*q.shape[:2], Hk, Hq // Hk, d)
        k, v = (t.unsqueeze(3).expand(-1, -1, -1, Hq // Hk, -1) for t in (k, v))
    O: Tensor = memory_efficient_attention(q, k, v, attn_bias=mask, scale=scale)
    return O.reshape(B, Nq, Hq, d).transpose(1, 2)
