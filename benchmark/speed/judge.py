"""Whether a provider is right on a row, before it is timed: `oracles` judges a sample of heads by their error budget.

The queries of a head do not depend on one another, so some of them, with the keys that they may see, are a problem of
its own (`Block`). A forward is judged on a few blocks of some heads. dK and dV of a head sum over all queries that
share it: where the scores of a head do not fit, truth and budget are summed over its blocks, which allows more than
the budget of the whole would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oracles import Judgement, error_over_budget
from speed.rows import DTYPES, Inputs, Row
from strategies import Features, Problem

HEADS = 6
"""Heads of Q that are judged of a forward; of a backward two heads of K and V with all that share them, or three."""
BLOCKS, QUERIES = 6, 16
"""Blocks of a head in a forward, and the queries of each. The first and the last queries are always among them: a wrong

mask shows most where a query sees few keys."""
SCORES = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Scores of a block in a backward: the oracles take about 30 float64 tensors of this size."""

GRADIENTS = ("dQ", "dK", "dV")
Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """A part of an output ("O", "dQ", "dK" or "dV"), where it is, and its truth and budget in float64."""

    tensor: str
    index: Index
    right: Tensor
    budget: Tensor


@dataclass(frozen=True)
class Judge:
    """The pieces of a row that are judged; computed once for all providers."""

    row: Row
    pieces: tuple[Piece, ...]

    def error(self, returned: Any) -> float:
        """The largest error/budget of O, or of (dQ, dK, dV); inf where a shape or dtype is wrong, or for NaN."""
        row = self.row
        got = dict(zip(GRADIENTS, returned, strict=True)) if row.backward else {"O": returned.detach()}
        for name, tensor in got.items():
            heads = row.Hk if name in ("dK", "dV") else row.Hq
            if tensor.shape != (row.B, heads, row.N, row.d) or tensor.dtype != DTYPES[row.dtype]:
                return float("inf")
        ratios = (error_over_budget(got[each.tensor][each.index], each.right, each.budget) for each in self.pieces)
        return max(float(ratio.max()) for ratio in ratios)


@dataclass(frozen=True)
class Block:
    """Rows `rows` of Q in the heads `heads` of batch entry b, which share head hk of K and V.

    keys: the rows see no key from here on. causal: the last row sees all keys before that, and each row before it one
    less; else every row sees all of them.
    """

    b: int
    hk: int
    heads: slice
    rows: slice
    keys: int
    causal: bool

    @property
    def of_q(self) -> Index:
        """The block in q, O and dQ, and in dO."""
        return (slice(self.b, self.b + 1), self.heads, self.rows)

    def judgement(self, inputs: Inputs) -> Judgement:
        """Truth and budget of the block as a problem of its own. Its values are normal, so they are independent."""
        k, v = (x[self.b : self.b + 1, self.hk : self.hk + 1, : self.keys] for x in (inputs.k, inputs.v))
        dO = None if inputs.dO is None else inputs.dO[self.of_q]
        features = Features(causal="lower_right" if self.causal else False)
        return Judgement(Problem(inputs.q[self.of_q], k, v, features, dO=dO), independent=True)


def judge_of(row: Row, inputs: Inputs) -> Judge:
    """Compute truth and budget of a row's pieces."""
    return Judge(row, tuple(_gradients(row, inputs) if row.backward else _outputs(row, inputs)))


def _outputs(row: Row, inputs: Inputs) -> Iterator[Piece]:
    size = min(QUERIES, row.N)
    starts = sorted(set(torch.linspace(0, row.N - size, BLOCKS).round().int().tolist()))
    for b, h in _spread(row.B, row.Hq, HEADS):
        for rows in (slice(start, start + size) for start in starts):
            for block in _blocks(row, b, h // row.group, slice(h, h + 1), rows):
                found = block.judgement(inputs)
                yield Piece("O", block.of_q, found.wanted("O"), found.budget("O"))


def _gradients(row: Row, inputs: Inputs) -> Iterator[Piece]:
    step = max(1, SCORES[inputs.device] // (row.group * row.N))
    for b, hk in _spread(row.B, row.Hk, max(2, HEADS // (2 * row.group))):
        heads, whole = slice(hk * row.group, (hk + 1) * row.group), inputs.k[b, hk].double()
        sums = {
            name: Piece(name, (b, hk), whole.new_zeros(whole.shape), whole.new_zeros(whole.shape))
            for name in GRADIENTS[1:]
        }
        for first in range(0, row.N, step):
            for block in _blocks(row, b, hk, heads, slice(first, min(first + step, row.N))):
                found = block.judgement(inputs)
                yield Piece("dQ", block.of_q, found.wanted("dQ"), found.budget("dQ"))
                for name, total in sums.items():
                    total.right[: block.keys] += found.wanted(name)[0, 0]
                    total.budget[: block.keys] += found.budget(name)[0, 0]
        yield from sums.values()


def _spread(B: int, heads: int, count: int) -> list[tuple[int, int]]:
    """Some batch entries and heads, spread over all of them."""
    flat = torch.linspace(0, B * heads - 1, min(count, B * heads)).round().int().tolist()
    return [divmod(index, heads) for index in flat]


def _blocks(row: Row, b: int, hk: int, heads: slice, rows: slice) -> Iterator[Block]:
    """Some queries as one block, or as two where the diagonal reaches the end of the keys among them."""
    length = row.lengths[b]
    cut = min(max(rows.start, length), rows.stop) if row.causal else rows.start
    if rows.start < cut:
        yield Block(b, hk, heads, slice(rows.start, cut), cut, causal=True)
    if cut < rows.stop:
        yield Block(b, hk, heads, slice(cut, rows.stop), length, causal=False)
