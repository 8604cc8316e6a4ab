"""Attention in fp32 as in a textbook."""

from __future__ import annotations

import torch

from oracles.features import links, pairs_of, visible
from oracles.others.autograd import answer_with_gradients
from oracles.registry import Answer, oracle
from strategies import Problem


@oracle()
def naive_fp32(problem: Problem) -> Answer:
    """softmax(scale * Q K^T + mask) V in plain fp32, every score in memory; gradients by autograd."""
    single = {name: tensor.float() for name, tensor in problem.tensors.items()}
    return answer_with_gradients(problem.with_tensors(single), _forward)


def _forward(problem: Problem) -> Answer:
    """Exclude rows that see no key from the softmax, where autograd would turn their -inf into NaN."""
    q, k, v = problem.q, *(tensor.repeat_interleave(problem.group, dim=1) for tensor in (problem.k, problem.v))
    seen = visible(problem)
    if seen is None:
        seen = torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool, device=k.device)
    is_read, has_keys = seen.any(dim=-2).unsqueeze(-1), seen.any(dim=-1, keepdim=True)
    k, v = (torch.where(is_read, tensor, 0.0) for tensor in (k, v))
    S, at = problem.scale * (q @ k.transpose(-1, -2)), pairs_of(problem)
    for link, given in links(problem):
        S = link.score(given, S, at)
    S = torch.where(seen | ~has_keys, S, -torch.inf)
    LSE = torch.logsumexp(S, dim=-1, keepdim=True)
    O = torch.exp(S - LSE) @ v
    return Answer(torch.where(has_keys, O, 0.0), torch.where(has_keys, LSE, -torch.inf).squeeze(-1))
