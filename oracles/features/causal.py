"""The causal mask: aligned to the upper left like torch's `is_causal`, or to the lower right like flash-attn >= 2.1."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from oracles.features.registry import Mask, Pairs, Row, meaning


@meaning("causal")
class Causal(Mask):
    """Query i sees keys j <= i; "lower_right": j <= i + n - Nq, so that the last query sees all n keys."""

    def breaks(self, value: Any) -> Collection[str]:
        """Key order matters to a mask by position, and a part's lower right corner is not that of the whole."""
        return ("permutes_keys", "splits") if value == "lower_right" else ("permutes_keys",)

    @staticmethod
    def visible(given: Any, at: Pairs) -> Tensor:
        """Return whether a key is at or before the diagonal."""
        return at.j <= at.i + (at.n - at.Nq if given == "lower_right" else 0)

    @staticmethod
    def sees(given: Any, row: Row) -> range:
        """One key for each query up to this one; lower right: all keys but one for each query after it."""
        after = row.Nq - 1 - row.i
        return range(max(0, row.n - after)) if given == "lower_right" else range(row.i + 1)
