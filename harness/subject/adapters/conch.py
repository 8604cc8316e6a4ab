"""conch-triton-kernels: attention over a paged cache, here with each batch entry in pages of its own."""

from __future__ import annotations

from typing import Any

import torch
from conch.ops.attention.varlen_attention import varlen_attention
from torch import Tensor

from harness.subject.adapters._conventions import declares, packed_queries, unpacked

REQUIRES = "conch-triton-kernels"
_PAGE = 16


@declares(alignments=("lower_right",))
def attention(
    q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None, seqlens_k: Tensor | None = None
) -> Tensor:
    """Attention of packed queries over (pages, page, H, d); causal is lower-right."""
    B, _, Nk, _ = k.shape
    lengths = torch.full((B,), Nk, dtype=torch.int32, device=k.device) if seqlens_k is None else seqlens_k
    pages = torch.arange(B * -(-Nk // _PAGE), dtype=torch.int32, device=k.device).reshape(B, -1)
    ours, (keys, values) = packed_queries(q), (_paged(t) for t in (k, v))
    asked = {"block_table": pages, "causal": bool(causal), "scale": scale, "strict": True}
    O = varlen_attention(*ours.rows, keys, values, ours.starts, ours.longest, lengths, Nk, **asked)
    return unpacked(O, q)


def _paged(tensor: Tensor) -> Tensor:
    """(B, H, N, d) as a cache (pages, page, H, d); what no key fills holds what fresh memory holds."""
    B, H, N, d = tensor.shape
    cache = tensor.new_empty(B, -(-N // _PAGE) * _PAGE, H, d)
    cache[:, :N] = tensor.transpose(1, 2)
    return cache.reshape(-1, _PAGE, H, d)
