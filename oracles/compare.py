"""Compares an output with the truth, element by element, in units of its budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """The element with the largest error/budget: ok if that is at most 1. index is () if there are no elements."""

    ok: bool
    ratio: float
    index: tuple[int, ...]
    got: float
    wanted: float
    error: float
    budget: float

    @property
    def is_finite(self) -> bool:
        """Whether the output is finite at the worst element."""
        return math.isfinite(self.got)


def compare(got: Tensor, want: Tensor, budget: Tensor) -> Comparison:
    """Compare an output (any float dtype, any device) with the truth and its budget (float64) of the same shape.

    Error/budget is 0 where both are equal, both are NaN, or the budget is inf (nothing is promised there). It is inf
    for NaN or inf in the wrong place, and for any error where the budget is 0. An inf of the right sign is right where
    the truth plus its budget reaches the largest number of the output's dtype. Raises ValueError if shapes differ.
    """
    if not got.shape == want.shape == budget.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (got, want, budget))
        raise ValueError(f"Output, truth and budget must have one shape, not {shapes}.")
    if got.numel() == 0:
        return Comparison(True, 0.0, (), math.nan, math.nan, 0.0, 0.0)
    got = got.to(want.device)
    ratio = (got.to(torch.float64) - want).abs_().div_(budget)
    index, worst = _largest(ratio)
    if not math.isfinite(worst):
        index, worst = _largest(_apply_rules(ratio, got, want, budget))
    found, wanted, allowed = (tensor[index].item() for tensor in (got, want, budget))
    return Comparison(worst <= 1.0, worst, index, found, wanted, abs(found - wanted), allowed)


def error_over_budget(got: Tensor, want: Tensor, budget: Tensor) -> Tensor:
    """Return error/budget of every element, in float64, by the rules of `compare`."""
    got = got.to(want.device)
    ratio = (got.to(torch.float64) - want).abs_().div_(budget)
    return _apply_rules(ratio, got, want, budget)


def _largest(ratio: Tensor) -> tuple[tuple[int, ...], float]:
    """Return the index of the largest ratio, and the ratio: NaN counts as larger than inf."""
    place = int(ratio.argmax())
    index = tuple(int(i) for i in np.unravel_index(place, ratio.shape))
    return index, ratio[index].item()


def _apply_rules(ratio: Tensor, got: Tensor, want: Tensor, budget: Tensor) -> Tensor:
    """Apply the rules for NaN, inf and a budget of 0; argmax puts NaN first, so none is missed."""
    largest = torch.finfo(got.dtype).max
    overflows = got.isinf() & (got.sign() == want.sign()) & (want.abs() + budget >= largest)
    is_right = (got == want) | (got.isnan() & want.isnan()) | overflows | (budget == math.inf)
    return torch.where(is_right, 0.0, ratio.nan_to_num(math.inf, math.inf))
