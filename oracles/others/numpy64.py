"""Attention in NumPy float64, one query at a time: it shares no arithmetic with torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oracles.features import Array, Row, links, visible_keys
from oracles.registry import Answer, oracle
from strategies import Problem


@oracle()
def numpy64(problem: Problem) -> Answer:
    """The definition row by row in NumPy float64, over the keys that the row sees and no others."""
    arrays = {name: _array(tensor) for name, tensor in problem.tensors.items()}
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    O, LSE = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf)
    gradients = {"dQ": np.zeros_like(q), "dK": np.zeros_like(k), "dV": np.zeros_like(v)}
    for b, h, i in np.ndindex(q.shape[:3]):
        keys = visible_keys(problem, b, h, i)
        if not keys:
            continue
        row, head = _Row(problem, b, h, i, np.array(keys)), (b, h // problem.group)
        O[b, h, i], LSE[b, h, i], p = row.forward(q[b, h, i], k[head][keys], v[head][keys])
        if problem.dO is not None:
            dO, dLSE = arrays["dO"][b, h, i], float(arrays["dLSE"][b, h, i]) if "dLSE" in arrays else 0.0
            ds = row.backward(_softmax_backward(p, v[head][keys] - O[b, h, i], dO, dLSE))
            gradients["dQ"][b, h, i] = np.einsum("j,jc->c", ds, k[head][keys])
            gradients["dK"][head][keys] += np.multiply.outer(ds, q[b, h, i])
            gradients["dV"][head][keys] += np.multiply.outer(p, dO)
    found = {"O": O, "LSE": LSE} | (gradients if problem.dO is not None else {})
    there = {name: torch.from_numpy(array).to(problem.q.device) for name, array in found.items()}
    return Answer(there.pop("O"), there.pop("LSE"), there)


def _softmax_backward(p: Array, from_O: Array, dO: Array, dLSE: float) -> Array:
    """Return dS of one row: a score moves O by p_j (v_j - O), and LSE by p_j. from_O (n, d) is v - O."""
    return np.asarray(p * (np.einsum("jc,c->j", from_O, dO) + dLSE))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().float().numpy().astype(np.float64)


class _Row:
    """One query over the n keys that it sees."""

    def __init__(self, problem: Problem, b: int, h: int, i: int, keys: Array) -> None:
        self.row = Row.of(problem, b, h, i)
        self.keys, self.scale, self.links = keys, problem.scale, links(problem)
        self.slope: Array = np.full(len(keys), problem.scale)

    def forward(self, q: Array, k: Array, v: Array) -> tuple[Array, float, Array]:
        """Return O, LSE and weights of q (d,), k (n, d) and v (n, d_v)."""
        s = np.einsum("jc,c->j", k, q) * self.scale
        for link, given in self.links:
            self.slope = self.slope * link.plain_slope(given, s, self.row, self.keys)
            s = link.plain(given, s, self.row, self.keys)
        order = np.argsort(s)
        LSE = s[order[-1]] + np.log1p(np.sum(np.exp(s[order[:-1]] - s[order[-1]])))
        p = np.exp(s - LSE)
        return np.einsum("j,jc->c", p, v), float(LSE), p

    def backward(self, ds: Array) -> Array:
        """Return the gradient of q·k, given that of the score."""
        return ds * self.slope
