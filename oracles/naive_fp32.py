"""Attention in fp32 the way a textbook writes it."""

from __future__ import annotations

import torch

from oracles.registry import Answer, oracle
from strategies import Problem


@oracle()
def naive_fp32(problem: Problem) -> Answer:
    """softmax(scale * Q K^T + mask) V in plain fp32, every score in memory."""
    q, k, v = (tensor.float() for tensor in (problem.q, problem.k, problem.v))
    k, v = (tensor.repeat_interleave(problem.group, dim=1) for tensor in (k, v))
    S = problem.scale * (q @ k.transpose(-1, -2))
    visible = problem.visible()
    if visible is not None:
        S = torch.where(visible, S, -torch.inf)
        is_read = visible.any(dim=-2).unsqueeze(-1)
        v = torch.where(is_read, v, 0.0)
    LSE = torch.logsumexp(S, dim=-1)
    P = torch.exp(S - LSE.masked_fill(LSE.isneginf(), 0.0).unsqueeze(-1))
    return Answer(P @ v, LSE)
