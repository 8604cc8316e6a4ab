"""flashinfer: prefill of one request at a time. Its causal mask ends where the keys end, and its LSE is in base 2."""

from __future__ import annotations

import math
from typing import Any

import torch
from flashinfer import single_prefill_with_kv_cache
from torch import Tensor

from harness.subject.adapters._conventions import declares

REQUIRES = "flashinfer-python"


@declares(
    dtypes=("fp16", "bf16"),
    head_dims=(64, 128, 256),
    alignments=("lower_right",),
    devices=("cuda",),
    differentiable=False,
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: Any = False,
    scale: float | None = None,
    seqlens_k: Tensor | None = None,
    return_lse: bool = False,
) -> Any:
    """Attention of each batch entry by a call of its own: q (N, H, d), k and v (H, N, d) cut to their length."""
    lengths = [k.shape[2]] * k.shape[0] if seqlens_k is None else seqlens_k.tolist()
    asked = {"causal": bool(causal), "sm_scale": scale, "kv_layout": "HND", "return_lse": True}
    calls = zip(q.transpose(1, 2), k, v, lengths, strict=True)
    each = [single_prefill_with_kv_cache(q1, k1[:, :n], v1[:, :n], **asked) for q1, k1, v1, n in calls]
    O, LSE = (torch.stack(parts).transpose(1, 2) for parts in zip(*each, strict=True))
    return (O, (LSE.double() * math.log(2)).float()) if return_lse else O
