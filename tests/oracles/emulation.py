"""A plain FlashAttention in torch operations: tiles of keys, online softmax in fp32 and base 2, P cast for P V."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from oracles import Answer
from strategies import Problem

Cast = Callable[[Tensor], Tensor]
LN_2 = math.log(2)


def flash(
    problem: Problem,
    tile: int = 32,
    p_dtype: torch.dtype | None = None,
    cast_input: Cast = Tensor.float,
    cast_scores: Cast = Tensor.float,
    cast_P: Cast | None = None,
    cast_sum: Cast = Tensor.float,
    rescales: bool = True,
) -> Answer:
    """O in the inputs' dtype and LSE in fp32; the later arguments are ways to get it wrong."""
    dtype = problem.q.dtype
    cast_P = cast_P or (lambda P: P.to(p_dtype or dtype).float())
    q, k, v = (cast_input(tensor) for tensor in (problem.q, *_readable(problem)))
    k, v = (tensor.repeat_interleave(problem.group, 1) for tensor in (k, v))
    visible = problem.visible()
    m = torch.full_like(q[..., :1], -torch.inf)
    l, acc = torch.zeros_like(m), torch.zeros_like(q)
    for start in range(0, k.shape[2], tile):
        keys = slice(start, start + tile)
        S = cast_scores(q @ k[:, :, keys].mT) * (problem.scale / LN_2)
        S = S if visible is None else S.masked_fill(~visible[..., keys], -torch.inf)
        m_new = torch.maximum(m, S.amax(-1, keepdim=True))
        shift = m_new.masked_fill(m_new.isneginf(), 0.0)
        alpha = torch.exp2(m - shift) if rescales else torch.ones_like(m)
        P = torch.exp2(S - shift)
        l = l * alpha + P.sum(-1, keepdim=True)
        acc = cast_sum(acc * alpha + cast_P(P) @ v[:, :, keys])
        m = m_new
    O = acc / l.masked_fill(l == 0, 1.0)
    return Answer(O.to(dtype), ((m + l.log2()) * LN_2).squeeze(-1))


def _readable(problem: Problem) -> tuple[Tensor, Tensor]:
    """K and V with 0 for what lies past the end, as a masked load leaves it."""
    if problem.seqlens_k is None:
        return problem.k, problem.v
    past_end = torch.arange(problem.k.shape[2], device=problem.k.device) >= problem.seqlens_k[:, None]
    return tuple(tensor.masked_fill(past_end[:, None, :, None], 0.0) for tensor in (problem.k, problem.v))


def keep_bits(mantissa: int, truncate: bool = False) -> Cast:
    """Round fp32 to so many bits of mantissa, or cut the others off: 10 is TF32, 7 is bf16."""

    def cast(x: Tensor) -> Tensor:
        dropped = 23 - mantissa
        bits = x.float().view(torch.int32)
        half = 0 if truncate else 1 << (dropped - 1)
        return ((bits + half) >> dropped << dropped).view(torch.float32)

    return cast
