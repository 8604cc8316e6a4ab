"""The truth: attention in float64, with the intermediate results that the error budget needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from oracles.features import links, pairs_of, visible
from oracles.registry import Answer, oracle
from oracles.truth.products import scores, weighted
from strategies import Problem

LOWEST = torch.finfo(torch.float64).min
"""Replaces the largest score of a row that sees no key: -inf minus -inf would be NaN."""


@dataclass(frozen=True, kw_only=True)
class Truth(Answer):
    """O and LSE in float64 with intermediate results; P = W / l are the softmax weights.

    q, k, v: float64 and contiguous; k and v are 0 past `seqlens_k`, v also where a visible one is NaN or inf.
    S (B, Hq, Nq, Nk): scores, meaningless where hidden. stages: the input of each feature that maps scores, the first
    being scale·q·k; empty if no feature does. W: exp(S - m), 0 where hidden, with m (B, Hq, Nq, 1) the largest visible
    score. l: row sum of W, 0 in a row that sees no key. hidden: True where a query may not see a key, broadcasts to S;
    None if all queries see all keys.
    """

    LSE: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    S: Tensor
    W: Tensor
    m: Tensor
    l: Tensor
    hidden: Tensor | None
    stages: tuple[Tensor, ...] = ()

    @property
    def divisor(self) -> Tensor:
        """l, with 1 instead of 0 in a row that sees no key."""
        return self.l if self.hidden is None else self.l.masked_fill(self.l == 0, 1.0)

    @property
    def visible_keys(self) -> Tensor:
        """The number of keys that each query sees: float64, broadcasts to (B, Hq, Nq, 1)."""
        Nk = self.k.shape[2]
        if self.hidden is None:
            return self.l.new_full((1, 1, 1, 1), Nk)
        return Nk - self.hidden.sum(-1, keepdim=True, dtype=torch.float64)


@oracle()
def float64(problem: Problem) -> Truth:
    """The definition in float64: the truth that all others are compared with.

    A key that a query may not see changes neither its O nor its LSE, even if it is NaN or inf. A visible NaN or inf
    does: NaN in q or k makes the row NaN; NaN or inf in v makes its column NaN or inf in the rows that see it.
    """
    q, k, v = _inputs(problem)
    hidden = _hidden(problem)
    S, stages = _scores(problem, q, k)
    seen = S if hidden is None else S.masked_fill(hidden, -math.inf)
    m = seen.amax(-1, keepdim=True) if seen.shape[-1] else torch.full_like(q[..., :1], -math.inf)
    if hidden is not None:
        m.clamp_(min=LOWEST)
    W = (seen - m).exp_()
    l = W.sum(-1, keepdim=True)
    finite_v = v if _is_finite(v) else v.nan_to_num(0.0, 0.0, 0.0)
    O = weighted(W, finite_v)
    LSE = (m + l.log()).squeeze(-1)
    truth = Truth(O, LSE=LSE, q=q, k=k, v=finite_v, S=S, W=W, m=m, l=l, hidden=hidden, stages=stages)
    O.div_(truth.divisor)
    if finite_v is not v:
        _restore_non_finite(O, v, hidden)
    return truth


def _scores(problem: Problem, q: Tensor, k: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the scores, and the input of each feature that maps them."""
    S, stages = scores(q, k).mul_(problem.scale), []
    for link, given in links(problem):
        stages.append(S)
        S = link.score(given, S, pairs_of(problem))
    return S, tuple(stages)


def _inputs(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (
        tensor.to(torch.float64, memory_format=torch.contiguous_format) for tensor in (problem.q, problem.k, problem.v)
    )
    if problem.seqlens_k is not None:
        keys = torch.arange(k.shape[2], device=k.device)[:, None]
        past_end = keys >= problem.seqlens_k[:, None, None, None]
        k, v = k.masked_fill(past_end, 0.0), v.masked_fill(past_end, 0.0)
    return q, k, v


def _hidden(problem: Problem) -> Tensor | None:
    seen = visible(problem)
    if seen is None and problem.k.shape[2] == 0:
        return torch.ones(1, 1, 1, 0, dtype=torch.bool, device=problem.k.device)
    return None if seen is None else ~seen


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in one pass: a float64 sum of fp32 numbers cannot overflow by itself."""
    return math.isfinite(tensor.sum().item())


def _restore_non_finite(O: Tensor, v: Tensor, hidden: Tensor | None) -> None:
    """Add the visible NaN and inf of v to O. A weight is never 0 in exact arithmetic, so 0·inf counts as inf."""
    sees = torch.ones_like(O[..., :1]).expand(*O.shape[:3], v.shape[2])
    sees = (sees if hidden is None else sees.masked_fill(hidden, 0.0)).contiguous()
    rising, falling, nan = (weighted(sees, kind.double()) > 0 for kind in (v == math.inf, v == -math.inf, v.isnan()))
    O += torch.where(rising, math.inf, 0.0) + torch.where(falling, -math.inf, 0.0) + torch.where(nan, math.nan, 0.0)
