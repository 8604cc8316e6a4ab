"""Attention in NumPy float64, one query at a time: it shares no arithmetic with torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles.registry import Answer, oracle
from strategies import Problem

Array = NDArray[np.float64]


@oracle()
def numpy64(problem: Problem) -> Answer:
    """The definition row by row in NumPy float64, over the keys that the row sees and no others."""
    q, k, v = (_array(tensor) for tensor in (problem.q, problem.k, problem.v))
    B, Hq, Nq, _ = q.shape
    O = np.zeros_like(q)
    LSE = np.full((B, Hq, Nq), -np.inf)
    for b, h, i in np.ndindex(B, Hq, Nq):
        n = _visible_keys(problem, b, i)
        if n > 0:
            head = h // problem.group
            O[b, h, i], LSE[b, h, i] = _row(q[b, h, i], k[b, head, :n], v[b, head, :n], problem.scale)
    return Answer(torch.from_numpy(O).to(problem.q.device), torch.from_numpy(LSE).to(problem.q.device))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().float().numpy().astype(np.float64)


def _visible_keys(problem: Problem, b: int, i: int) -> int:
    """How many keys query i of batch entry b sees: always the first ones."""
    Nq, Nk = problem.q.shape[2], problem.k.shape[2]
    length = Nk if problem.seqlens_k is None else int(problem.seqlens_k[b])
    if not problem.causal:
        return length
    shift = length - Nq if problem.causal == "lower_right" else 0
    return max(0, min(length, i + 1 + shift))


def _row(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, float]:
    """O and LSE of one query over n keys: q (d,), k and v (n, d)."""
    s = np.einsum("jc,c->j", k, q) * scale
    order = np.argsort(s)
    LSE = s[order[-1]] + np.log1p(np.sum(np.exp(s[order[:-1]] - s[order[-1]])))
    return np.einsum("j,jc->c", np.exp(s - LSE), v), float(LSE)
