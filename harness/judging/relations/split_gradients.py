"""Relation: gradients pass through the merge of split keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.judging.relations.base import Base, Claim, FurtherCall
from harness.judging.relations.gradients import budget_of, has_backward, sum_claim
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt
from oracles import Truth, float64
from oracles.budget.scores import by_query_head
from oracles.truth.products import over_group, weighted
from strategies.case import INPUTS


def _can_be_split(attempt: Attempt) -> bool:
    has_lse, needs = "return_lse" in attempt.subject.keywords, set(attempt.case.needs_grad)
    return has_backward(attempt) and has_lse and attempt.case.geometry.Nk > 1 and needs >= set(INPUTS)


@relation(exact=None, price=4, when=_can_be_split, of_gradients=True, needs=("splits", "sums_to_one"))
def merged_gradients(base: Base) -> Iterator[Claim]:
    """The gradients of two parts of the keys, each with the dO and dLSE of the merge, combine to those of the whole.

    With w = exp(LSE_part - LSE), dO_part = w·dO and dLSE_part = w·(dO·(O_part - O) + dLSE). dQ is the sum over the
    parts, dK and dV are concatenated. The allowed difference is the sum of all budgets and the propagated rounding
    errors of dO_part and dLSE_part, which are known.
    """
    Nk = base.attempt.case.geometry.Nk
    for cut in base.choices(sorted({1, Nk // 3, Nk // 2, Nk - 1} - {0})):
        parts = [_Part.of(base, keys) for keys in (slice(0, cut), slice(cut, Nk))]
        calls = [part.call(base) for part in parts]
        yield from _combine(base, parts, calls, f"Keys split at {cut}, and gradients passed through the merge")


def _combine(base: Base, parts: list[_Part], calls: list[FurtherCall], what: str) -> Iterator[Claim]:
    drifts = [part.drift(base) for part in parts]
    names = [name for name in base.gradients if all(name in call.gradients for call in calls)]
    for name in names:
        got = [call.gradients[name].double() for call in calls]
        allowed = [budget_of(call, name) + drift[name] for call, drift in zip(calls, drifts, strict=True)]
        if name == "dQ":
            first = base.problem.q.shape[2]
            whole, budget = (sum(_pad_rows(x, first) for x in each) for each in (got, allowed))
        else:
            whole, budget = torch.cat(got, dim=2), torch.cat(allowed, dim=2)
        assert isinstance(whole, Tensor)
        total = (budget + budget_of(base.attempt, name)).nan_to_num(torch.inf, torch.inf)
        yield sum_claim(base, name, whole, total, what)


def _pad_rows(x: Tensor, Nq: int) -> Tensor:
    """Prepend rows of 0 for those that the part does not have."""
    return torch.nn.functional.pad(x, (0, 0, Nq - x.shape[2], 0))


@dataclass(frozen=True)
class _Part:
    """Some of the keys, the rows that see them (places), and the dO and dLSE that the merge passes to this part.

    off_dO, off_dLSE: the rounding errors of dO and dLSE, in float64.
    """

    places: Mapping[str, slice]
    truth: Truth
    dO: Tensor
    dLSE: Tensor
    off_dO: Tensor
    off_dLSE: Tensor

    @classmethod
    def of(cls, base: Base, keys: slice) -> _Part:
        """Make a part; under an upper-left mask it has the rows from its first key on, and the same mask again."""
        problem, whole = base.problem, base.attempt.truth
        assert problem.dO is not None
        rows = slice(keys.start if problem.features.causal else 0, None)
        places = {"Nq": rows, "Nk": keys}
        part = base.cut(places)
        truth = float64(part.without_backward())
        share = (truth.LSE - whole.LSE[:, :, rows]).exp().masked_fill(truth.LSE.isinf(), 0.0)
        dO = problem.dO[:, :, rows].double()
        through_lse = (dO * (truth.O - whole.O[:, :, rows])).sum(-1)
        if problem.dLSE is not None:
            through_lse = through_lse + problem.dLSE[:, :, rows].double()
        exact_dO, exact_dLSE = share[..., None] * dO, share * through_lse
        dO_part, dLSE_part = exact_dO.to(problem.q.dtype), exact_dLSE.float()
        off_dO, off_dLSE = (dO_part.double() - exact_dO).abs(), (dLSE_part.double() - exact_dLSE).abs()
        return cls(places, truth, dO_part, dLSE_part, off_dO, off_dLSE)

    def call(self, base: Base) -> FurtherCall:
        """Call the subject on this part alone."""
        return base.part(self.places, dO=self.dO, dLSE=self.dLSE, return_lse=True)

    def drift(self, base: Base) -> dict[str, Tensor]:
        """Bound how far the rounding errors of dO and dLSE move the gradients."""
        truth, scale, Hk = self.truth, abs(base.problem.scale), base.problem.k.shape[1]
        P = truth.W / truth.divisor
        dP = self.off_dO @ by_query_head(truth, truth.v.abs()).mT
        delta = (self.off_dO * truth.O.abs()).sum(-1, keepdim=True)
        dS = P * (dP + delta + self.off_dLSE[..., None])
        return {
            "dQ": scale * weighted(dS, truth.k.abs()),
            "dK": over_group(scale * dS.mT @ truth.q.abs(), Hk),
            "dV": over_group(P.mT @ self.off_dO, Hk),
        }
