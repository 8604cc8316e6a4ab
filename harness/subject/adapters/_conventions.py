"""What the adapters of other packages share: how they declare and refuse, and the packages' layouts.

Nothing here copies a tensor that the package would take as it lies, so that strides and what stands around the
tensors reach the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from harness.subject.declaration import DECLARATION, Attention

UNIT_LAST_STRIDE = (
    "contiguous",
    "bshd",
    "sliced",
    "packed_qkv",
    "padded_rows",
    "offset_by_one",
    "expanded_batch",
    "expanded_heads",
    "expanded_rows",
)
"""The layouts whose last stride is 1, which is all that most packages ask."""


def declares(**limits: Any) -> Callable[[Attention], Attention]:
    """Put what a package promises on its adapter, as the dict that `harness.subject.declaration` reads."""

    def declare(function: Attention) -> Attention:
        setattr(function, DECLARATION, limits)
        return function

    return declare


def refuse(asked: bool, what: str) -> None:
    """Refuse the call where it asks for something that the package says it does not do."""
    if asked:
        raise NotImplementedError(what)


def refuse_empty(q: Tensor, k: Tensor) -> None:
    """Refuse a call without rows or keys, for a package that says nothing of such calls."""
    refuse(0 in (q.shape[2], k.shape[2]), "it says nothing of calls without rows or keys")


def self_attention_alone(q: Tensor, k: Tensor) -> None:
    """Refuse a call with more or fewer keys than queries, and one without any."""
    refuse(q.shape[2] != k.shape[2], "it takes as many keys as queries")
    refuse_empty(q, k)


def refuse_poison(k: Tensor, v: Tensor, seqlens_k: Tensor | None) -> None:
    """Refuse NaN and inf past the end, for a package that gives those keys the weight 0: 0 times NaN is NaN."""
    if seqlens_k is not None:
        seen = (torch.arange(k.shape[2], device=k.device) < seqlens_k[:, None])[:, None, :, None]
        finite = all(bool(torch.isfinite(t).logical_or(seen).all()) for t in (k, v))
        refuse(not finite, "what stands past the end must be finite")


def swapped(*tensors: Tensor) -> tuple[Tensor, ...]:
    """(B, H, N, d) seen as (B, N, H, d), or the other way round; nothing is copied."""
    return tuple(tensor.transpose(1, 2) for tensor in tensors)


@dataclass(frozen=True)
class Packed:
    """Sequences of several lengths, one after the other.

    rows: (tokens, H, d) for each tensor. starts: where each sequence begins and the last ends, int32 (B + 1).
    longest: the length of the longest.
    """

    rows: tuple[Tensor, ...]
    starts: Tensor
    longest: int


def packed(lengths: Tensor, *tensors: Tensor) -> Packed:
    """Pack the first `lengths[b]` rows of each batch entry of tensors (B, H, N, d)."""
    counts: list[int] = lengths.tolist()
    rows = [torch.cat([one[:, :n].transpose(0, 1) for one, n in zip(t, counts, strict=True)]) for t in tensors]
    starts = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=lengths.device)
    return Packed(tuple(rows), starts, max(counts))


def packed_queries(q: Tensor) -> Packed:
    """Pack all rows of q (B, H, Nq, d)."""
    return packed(torch.full((q.shape[0],), q.shape[2], device=q.device), q)


def unpacked(O: Tensor, like: Tensor) -> Tensor:
    """(B * N, H, d) as (B, H, N, d), the shape of `like`."""
    B, H, N, d = like.shape
    return O.reshape(B, N, H, d).transpose(1, 2)
