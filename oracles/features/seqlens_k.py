"""The lengths of K and V: keys at or past `seqlens_k[b]` do not exist."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from oracles.features.registry import Mask, Pairs, Row, meaning


@meaning("seqlens_k")
class SeqlensK(Mask):
    """Queries of batch entry b see its first n keys, n being `seqlens_k[b]`."""

    @staticmethod
    def visible(given: Any, at: Pairs) -> Tensor:
        """Return whether a key is among the first n."""
        return at.j < at.n

    @staticmethod
    def sees(given: Any, row: Row) -> range:
        """Return the first n keys."""
        return range(int(given[row.b]))
