"""The causal mask: aligned to the upper left as torch's `is_causal`, or to the lower right as flash-attn >= 2.1."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from oracles.features.registry import Mask, Pairs, Row, meaning


@meaning("causal")
class Causal(Mask):
    """Query i sees keys j <= i; "lower_right": j <= i + n - Nq, so that the last query sees all n keys."""

    def breaks(self, value: Any) -> Collection[str]:
        """A mask by position fixes the order of the keys, and the lower right of a part is not that of the whole."""
        return ("permutes_keys", "splits") if value == "lower_right" else ("permutes_keys",)

    @staticmethod
    def visible(given: Any, at: Pairs) -> Tensor:
        """Up to the diagonal."""
        return at.j <= at.i + (at.n - at.Nq if given == "lower_right" else 0)

    @staticmethod
    def sees(given: Any, row: Row) -> range:
        """As many keys as there are queries up to this one; lower right, all but one for each query after it."""
        after = row.Nq - 1 - row.i
        return range(max(0, row.n - after)) if given == "lower_right" else range(row.i + 1)
