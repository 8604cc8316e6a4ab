"""The error budget of the forward pass: how far from the truth each element of a right O and LSE may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from oracles.budget.arithmetic import FLUSHED, Arithmetic
from oracles.budget.scores import LEAST_SCALE, Perturbed, by_query_head, dot_error, perturb, score_errors
from oracles.truth.float64 import Truth
from oracles.truth.products import weighted
from strategies import Problem

FP32_MAX = torch.finfo(torch.float32).max
DECLARED = "declared tolerance"
"""The part of a budget that the subject's own declaration adds."""


@dataclass(frozen=True, eq=False)
class Budget:
    """Allowed error of each element by tensor, in float64: of "O" (B, Hq, Nq, d) and "LSE" (B, Hq, Nq).

    Each is the sum of its parts. 0 in a row that sees no key. inf where fp32 itself may overflow: nothing is promised
    there, not even a number. atol: what a subject's declaration has added to it.
    """

    by_name: Mapping[str, Tensor]
    terms: Terms | None = field(default=None, repr=False)
    atol: float = 0.0

    def __getitem__(self, name: str) -> Tensor:
        """The budget of a tensor."""
        return self.by_name[name]

    @property
    def O(self) -> Tensor:  # noqa: E743
        """The budget of O."""
        return self.by_name["O"]

    @property
    def LSE(self) -> Tensor:
        """The budget of LSE."""
        return self.by_name["LSE"]

    def is_for(self, dtype: torch.dtype) -> bool:
        """Whether it is for a kernel that computes, casts P and stores in this one dtype."""
        return not self.atol and (self.terms is None or self.terms.rounding == Arithmetic.of(dtype))

    def plus(self, atol: float) -> Budget:
        """Return the budget with a declared tolerance added, except where it is 0: nothing is computed there."""
        return replace(self, by_name=add_tolerance(self.by_name, atol), atol=atol) if atol else self

    def parts(self, name: str, index: tuple[int, ...]) -> dict[str, float]:
        """Return the parts of the budget of one element of a tensor, by name."""
        if self.terms is None:
            return {}
        parts = self.terms.parts_O() if name == "O" else self.terms.parts_LSE()
        found = {part: of_part.expand(self[name].shape)[index].item() for part, of_part in parts.items()}
        return found | ({DECLARED: self.atol} if self.atol else {})


def add_tolerance(by_name: Mapping[str, Tensor], atol: float) -> dict[str, Tensor]:
    """Add a declared tolerance to the budgets of some tensors, except where they are 0."""
    return {name: torch.where(budget > 0, budget + atol, budget) for name, budget in by_name.items()}


def _sum(parts: dict[str, Tensor]) -> Tensor:
    return reduce(torch.add, parts.values())


@dataclass(frozen=True)
class Overflow:
    """inf where fp32 may overflow, else 0: O (B, Hq, Nq, d), LSE (B, Hq, Nq, 1)."""

    O: Tensor
    LSE: Tensor


@dataclass(frozen=True)
class Terms:
    """The terms of a budget's parts; each broadcasts to (B, Hq, Nq, d).

    weights: the effect of the scores' errors. size: |O|. cast: the casts of P. underflow: what is flushed to 0.
    size_lse: |LSE|. log_l: log of the row sum. steps: g(n) + 4. has_keys: 1, or 0 in a row that sees no key.
    """

    rounding: Arithmetic
    weights: Perturbed
    size: Tensor
    cast: Tensor
    underflow: Tensor
    size_lse: Tensor
    log_l: Tensor
    steps: Tensor
    has_keys: Tensor
    overflow: Overflow | None

    def parts_O(self) -> dict[str, Tensor]:
        """Return the parts of O by name."""
        r, weights = self.rounding, self.weights
        parts = {
            "scores": weights.moved,
            "accumulation": self.steps * (r.u_dot * weights.magnitude + r.u * (self.size + weights.moved)),
            "normalisation": self.misweighed * self.size,
            "cast of P": self.cast,
            "underflow": self.underflow,
        }
        stored = self.size + _sum(parts)
        parts["store of O"] = r.u_io * stored + r.tiny_io * self.has_keys
        return parts if self.overflow is None else parts | {"fp32 overflow": self.overflow.O}

    def total_O(self) -> Tensor:
        """Return the sum of `parts_O`, in half as many operations."""
        r, weights = self.rounding, self.weights
        in_l = self.steps * r.u
        total = self.size * (in_l + self.misweighed)
        total.addcmul_(weights.moved, 1 + in_l).addcmul_(weights.magnitude, self.steps * r.u_dot)
        total.add_(self.cast).add_(self.underflow).mul_(1 + r.u_io)
        total.add_(self.size, alpha=r.u_io).add_(self.has_keys, alpha=r.tiny_io)
        return total if self.overflow is None else total.add_(self.overflow.O)

    def parts_LSE(self) -> dict[str, Tensor]:
        """Return the parts of LSE by name."""
        u = self.rounding.u
        parts = {
            "scores": self.weights.drift,
            "row sum": (self.steps + 4) * self.has_keys * u,
            "logarithm": self.shift * 2,
        }
        if self.overflow is not None:
            parts["fp32 overflow"] = self.overflow.LSE
        return {name: part.squeeze(-1) for name, part in parts.items()}

    @cached_property
    def shift(self) -> Tensor:
        """Relative error of a weight that is taken as exp(S - LSE)."""
        return (self.size_lse + self.log_l).mul_(2 * self.rounding.u)

    @cached_property
    def misweighed(self) -> Tensor:
        """Relative error of O from weights that are each off by a factor exp(±shift); past e^80 nothing is promised."""
        return self.shift.clamp(max=80.0).expm1()


def forward_budget(
    problem: Problem,
    truth: Truth,
    p_dtype: torch.dtype | None = None,
    independent: bool = False,
    dtype: torch.dtype | None = None,
) -> Budget:
    """Return how far O and LSE of a right forward pass may be from the truth.

    p_dtype: what P is cast to before P V; None means dtype. dtype: of the kernel's inputs and O; None means the
    problem's own. independent: the values are drawn independently and continuously, so that rounding errors are random:
    7.5 sigma bounds the sum of P's casts, 2√n unit roundoffs a sum of n terms (Higham and Mary 2019,
    https://doi.org/10.1137/18M1226312, with a probability far beyond any campaign). Never set it for structured values:
    equal terms round the same way and their errors add up, to n/4 in a chain of equal terms and n/2 if small ones are
    added to a large one.

    n is the number of keys that a row sees: adding an exact 0 for a hidden key rounds nothing. g(n) = 2√n or, if not
    independent, n/2 if that is more; n - 1 at most. P = W / l. The parts:

    - scores: S_j is off by e_j = (min(d - 1, 2√d) + 4)·u_dot·|scale|·Σ|q||k| + 4u|S_j| + u_exp, exp included
      (the terms along d are never equal, as every value family draws them one by one), so a weight
      is off by a factor exp(±e_j). With E = expm1(e), Ē = Σ P E, and O' computed with w_j = P_j·exp(±e_j),
      O' - O = Σ w_j (v_j - O) / Σ w_j gives |O' - O| <= (1 + Ē)·Σ P E |v - O|, as Σ w >= Σ P / (1 + E), which
      is at least 1 / (1 + Ē) (Jensen). Σ P E |v - O| is at most Σ P E |v| + Ē |O|, and (Cauchy-Schwarz) at most
      √(Σ P E²)·√(Σ P v² - O²), which is 0 if a row sees one key or equal values. Whatever its weights, O' is a
      mean of visible values, so no farther from O than the farthest of them.
    - accumulation: (g(n) + 4)·(u_dot·Σ P'|v| + u·(|O| + scores)): the sum P'V, and the row sum l. P' are the
      kernel's own weights; Σ P'|v| <= (1 + Ē)·Σ P (1 + E) |v|.
    - normalisation: expm1(2u·(|LSE| + log l))·|O|: split keys and two passes weigh with exp(S - LSE) of a rounded LSE.
    - cast of P: u_p·Σ P'|v|.
    - underflow: n·tiny_p·max|v| / l + (n + 2)·2^-126, of weights and products that are flushed to 0.
    - store of O: u_io·(|O| + all of the above) + tiny_io.
    - LSE: log(1 + Ē) of the scores, (g(n) + 8)·u of the row sum and a coarse log2, 4u·(|LSE| + log l).
    """
    if truth.S.numel() == 0:
        return Budget({"O": torch.zeros_like(truth.O), "LSE": torch.zeros_like(truth.LSE)})
    rounding = Arithmetic.of(dtype or problem.q.dtype, p_dtype)
    terms = _terms(problem, truth, rounding, independent)
    return Budget({"O": terms.total_O(), "LSE": _sum(terms.parts_LSE())}, terms)


def _terms(problem: Problem, truth: Truth, rounding: Arithmetic, independent: bool) -> Terms:
    weights = perturb(truth, score_errors(problem, truth, rounding))
    cast = weights.magnitude * rounding.u_p
    if independent and rounding.u_p and weights.worst_e is None:
        cast = torch.minimum(cast, _random_casts(truth, weights, rounding))
    n, l = truth.visible_keys, truth.divisor
    has_keys = n.clamp(max=1.0)
    largest_v = by_query_head(truth, truth.v.abs().amax(dim=2, keepdim=True))
    log_l = l.log()
    return Terms(
        rounding=rounding,
        weights=weights,
        size=truth.O.abs(),
        cast=cast,
        underflow=torch.addcmul((n + 2 * has_keys) * FLUSHED, n / l, largest_v, value=rounding.tiny_p),
        size_lse=(truth.m + log_l).abs_() * has_keys,
        log_l=log_l,
        steps=sum_roundings(n, independent) + 4,
        has_keys=has_keys,
        overflow=_overflow(problem, truth, weights, largest_v, rounding),
    )


def sum_roundings(n: Tensor, independent: bool) -> Tensor:
    """Return g(n): the error of a sum of n terms, in unit roundoffs."""
    at_random = 2 * n.sqrt()
    most = at_random if independent else torch.maximum(at_random, n / 2)
    return torch.minimum(most, n - 1).clamp_(min=0.0)


def _random_casts(truth: Truth, weights: Perturbed, rounding: Arithmetic) -> Tensor:
    """Return 7.5 sigma of a sum of casts with errors uniform within ±u_p·P'; P' is at most P·exp(2·max e)."""
    sigma = rounding.u_p / math.sqrt(3) * math.exp(2 * weights.largest_e)
    root = weighted(truth.W.square(), truth.v.square()).sqrt_()
    return root.mul_(truth.divisor.reciprocal() * (7.5 * sigma))


def _overflow(
    problem: Problem, truth: Truth, weights: Perturbed, largest_v: Tensor, rounding: Arithmetic
) -> Overflow | None:
    """Return where a score, or a sum over v, may pass the range of fp32; None if nothing may."""
    Nk = truth.S.shape[-1]
    may_sums = Nk * torch.finfo(problem.v.dtype).max > FP32_MAX / 2 and Nk * largest_v.amax().item() > FP32_MAX / 2
    if rounding.u < 2.0**-24 or (weights.worst_e is None and not may_sums):
        return None
    in_scores = torch.zeros_like(truth.l)
    if weights.worst_e is not None:
        scale = max(abs(problem.scale), LEAST_SCALE)
        largest_score = weights.worst_e / dot_error(problem.q.shape[-1], rounding) * max(1.0, 1.0 / scale)
        in_scores.masked_fill_(largest_score > FP32_MAX / 2, math.inf)
    in_sums = torch.zeros_like(truth.O).masked_fill_(truth.l * weights.magnitude > FP32_MAX / 2, math.inf)
    return Overflow(in_scores + in_sums, in_scores)
