"""The `Meaning` interface of a feature: which keys it hides from a query, or how it maps a score.

The meaning of a feature is one class in a file of its own in this folder, registered under the feature's name. Truth,
oracles, budget, relations and scripts loop over a problem's features and name none themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oracles.budget.arithmetic import Arithmetic
from strategies import Features, Problem
from strategies.features import FEATURES
from strategies.spec import require

Array = NDArray[np.float64]

PREMISES = {
    "prefix": "the keys that a row sees are the first ones of its batch entry",
    "permutes_keys": "the order of the keys does not matter",
    "splits": "if only the keys from a cut on are given, the rows from the cut on see the same of them",
    "sums_to_one": "the weights of a row that sees a key sum to 1",
    "shift_invariant": "a number added to all scores of a row changes only LSE, by that number",
    "independent": "weights round independently of one another where the tensors' values are independent",
}
"""What a relation, or a sharper budget, may rely on unless a feature breaks it."""


class Pairs(NamedTuple):
    """Queries i (Nq, 1), keys j (Nk,) and the number of keys n (B or 1, 1, 1, 1) of each batch entry."""

    i: Tensor
    j: Tensor
    n: Tensor
    Nq: int
    Nk: int


@dataclass(frozen=True)
class Row:
    """Query i of head h of batch entry b, which has n of Nk keys."""

    b: int
    h: int
    i: int
    n: int
    Nq: int
    Nk: int

    @classmethod
    def of(cls, problem: Problem, b: int, h: int, i: int) -> Row:
        """Return a row of a problem."""
        Nq, Nk = problem.q.shape[2], problem.k.shape[2]
        return cls(b, h, i, Nk if problem.seqlens_k is None else int(problem.seqlens_k[b]), Nq, Nk)


class Meaning:
    """The meaning of a feature. `given` is the tensor that it brings under its own name, or else its value.

    Torch functions are copied into scripts, so they use only torch.
    """

    name: str

    def breaks(self, value: Any) -> Collection[str]:
        """Return the PREMISES that the feature breaks with this value."""
        return ()


class Mask(Meaning):
    """A feature that hides keys."""

    @staticmethod
    def visible(given: Any, at: Pairs) -> Tensor:
        """Return whether a query sees a key: bool, broadcasts to (B, Hq, Nq, Nk)."""
        raise NotImplementedError

    @staticmethod
    def sees(given: Any, row: Row) -> Collection[int]:
        """Return the keys that a row sees, in plain Python without `visible`: numpy64 votes independently."""
        raise NotImplementedError


class Score(Meaning):
    """A feature that maps each score S = scale·q·k to another, elementwise. S (B, Hq, Nq, Nk), float64 or fp32."""

    @staticmethod
    def score(given: Any, S: Tensor, at: Pairs) -> Tensor:
        """Return the mapped score, by torch operations that autograd can differentiate."""
        raise NotImplementedError

    @staticmethod
    def slope(given: Any, S: Tensor, at: Pairs) -> Tensor:
        """Return the derivative of `score` at S."""
        return torch.ones_like(S)

    @staticmethod
    def plain(given: Any, s: Array, row: Row, keys: Array) -> Array:
        """Return the mapped scores of one row at these keys, in NumPy without `score`: numpy64 votes independently."""
        raise NotImplementedError

    @staticmethod
    def plain_slope(given: Any, s: Array, row: Row, keys: Array) -> Array:
        """Return `slope` in NumPy."""
        return np.ones_like(s)

    def steepest(self, given: Any, S: Tensor, error: Tensor, at: Pairs) -> Tensor:
        """Return the largest |slope| within an error of S: it bounds how much the error grows."""
        return self.slope(given, S, at).abs()

    def rounds(self, given: Any, S: Tensor, made: Tensor, at: Pairs, arithmetic: Arithmetic) -> Tensor:
        """Return the rounding error of computing `made`, the mapped score, in fp32."""
        return 2 * arithmetic.u * made.abs()

    def slope_error(self, given: Any, S: Tensor, error: Tensor, at: Pairs, arithmetic: Arithmetic) -> Tensor:
        """Return how far the slope of a right backward may be from `slope`, given the error of S."""
        return 4 * arithmetic.u * self.slope(given, S, at).abs()


MEANINGS: dict[str, Meaning] = {}
M = TypeVar("M", bound=type[Meaning])


def meaning(name: str) -> Callable[[M], M]:
    """Register the meaning of a feature. Raises ValueError for an unknown feature, or one that has a meaning."""

    def register(kind: M) -> M:
        require(name in FEATURES, f"There is no feature {name!r} to give a meaning to; add it to strategies/features.")
        require(name not in MEANINGS, f"The feature {name!r} has a meaning already.")
        MEANINGS[name] = kind()
        MEANINGS[name].name = name
        return kind

    return register


def broken_premises(features: Features) -> frozenset[str]:
    """Return the PREMISES that some feature breaks."""
    asked = ((MEANINGS[name], value) for name, value in features.asked().items() if name in MEANINGS)
    return frozenset(premise for each, value in asked for premise in each.breaks(value))


def masks(problem: Problem) -> Iterator[tuple[Mask, Any]]:
    """Yield the masks of a problem, each with its argument."""
    for each in _meanings(problem):
        if isinstance(each, Mask):
            yield each, problem.given(each.name)


def links(problem: Problem) -> list[tuple[Score, Any]]:
    """Return the maps that are applied to scores after the scale, in order, each with its argument."""
    return [(each, problem.given(each.name)) for each in _meanings(problem) if isinstance(each, Score)]


def _meanings(problem: Problem) -> Iterable[Meaning]:
    return (MEANINGS[name] for name in problem.features.asked() if name in MEANINGS)


def pairs_of(problem: Problem) -> Pairs:
    """Return the pairs of queries and keys of a problem."""
    Nq, Nk, device = problem.q.shape[2], problem.k.shape[2], problem.q.device
    lengths = problem.seqlens_k
    n = torch.full((1,), Nk, device=device) if lengths is None else lengths
    return Pairs(
        torch.arange(Nq, device=device)[:, None], torch.arange(Nk, device=device), n[:, None, None, None], Nq, Nk
    )


def visible(problem: Problem) -> Tensor | None:
    """Return which keys each query sees: bool, broadcasts to (B, Hq, Nq, Nk); None if all queries see all keys."""
    found = list(masks(problem))
    if not found:
        return None
    at = pairs_of(problem)
    seen = reduce(torch.logical_and, (mask.visible(given, at) for mask, given in found))
    return seen.reshape((1,) * (4 - seen.dim()) + seen.shape)


def visible_keys(problem: Problem, b: int, h: int, i: int) -> list[int]:
    """Return the keys that query i of head h of batch entry b sees, by the masks' plain `sees`."""
    row = Row.of(problem, b, h, i)
    seen = [mask.sees(given, row) for mask, given in masks(problem)]
    return [j for j in range(row.Nk) if all(j in keys for keys in seen)]
