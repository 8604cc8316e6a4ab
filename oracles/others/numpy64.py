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
    arrays = {name: _array(tensor) for name, tensor in problem.tensors.items()}
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    O, LSE = np.zeros_like(q), np.full(q.shape[:3], -np.inf)
    gradients = [np.zeros_like(tensor) for tensor in (q, k, v)] if problem.dO is not None else []
    for b, h, i in np.ndindex(q.shape[:3]):
        n = _visible_keys(problem, b, i)
        if n == 0:
            continue
        keys = (b, h // problem.group, slice(0, n))
        O[b, h, i], LSE[b, h, i], p = _row(q[b, h, i], k[keys], v[keys], problem.scale)
        if gradients:
            dO, dLSE = arrays["dO"][b, h, i], float(arrays["dLSE"][b, h, i]) if "dLSE" in arrays else 0.0
            ds = _softmax_backward(p, v[keys] - O[b, h, i], dO, dLSE) * problem.scale
            gradients[0][b, h, i] = np.einsum("j,jc->c", ds, k[keys])
            gradients[1][keys] += np.multiply.outer(ds, q[b, h, i])
            gradients[2][keys] += np.multiply.outer(p, dO)
    return Answer(*(torch.from_numpy(array).to(problem.q.device) for array in (O, LSE, *gradients)))


def _softmax_backward(p: Array, from_O: Array, dO: Array, dLSE: float) -> Array:
    """dS of one row: a score moves O by p_j (v_j - O), and LSE by p_j. from_O (n, d) is v - O."""
    return np.asarray(p * (np.einsum("jc,c->j", from_O, dO) + dLSE))


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


def _row(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, float, Array]:
    """O, LSE and weights of one query over n keys: q (d,), k and v (n, d)."""
    s = np.einsum("jc,c->j", k, q) * scale
    order = np.argsort(s)
    LSE = s[order[-1]] + np.log1p(np.sum(np.exp(s[order[:-1]] - s[order[-1]])))
    p = np.exp(s - LSE)
    return np.einsum("j,jc->c", p, v), float(LSE), p
