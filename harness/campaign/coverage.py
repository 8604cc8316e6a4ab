"""What a campaign has covered: the classes a case falls into, axis by axis, and those that were never hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from harness.subject.declaration import Subject
from oracles import Truth
from strategies import AttentionCase
from strategies.case import NEEDS, PAST_END, Causal
from strategies.draw import GRADIENT_VALUES
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.values import FAMILIES

EDGE = 64
"""Tail lengths are classed against this tile, as good as any power of two."""

LEAST_TILE = 16
"""Keys of the smallest tile that tensor cores take: the running max moves at most once in each."""


@dataclass(frozen=True)
class Axis:
    """One way to class cases: the classes that a subject can be asked for, and those that a case falls into."""

    name: str
    possible: Callable[[Subject], Iterable[str]]
    of: Callable[[AttentionCase], Iterable[str]]


def _causal(case: AttentionCase) -> str:
    return {"False": "no", "True": "upper-left"}.get(str(case.features.causal), "lower-right")


def _order(case: AttentionCase) -> str:
    g = case.geometry
    return "Nq < Nk" if g.Nq < g.Nk else "Nq = Nk" if g.Nq == g.Nk else "Nq > Nk"


def _length(n: int) -> str:
    return str(n) if n <= 2 else "one tile" if n <= EDGE else "two tiles" if n <= 2 * EDGE else "more tiles"


def _tail(n: int) -> str:
    return {0: "none", 1: "1", EDGE - 1: "tile - 1"}.get(n % EDGE, "other")


def _head_dim(d: int) -> str:
    if d < 16:
        return "under 16"
    size = "to 128" if d <= 128 else "to 256" if d <= 256 else "over 256"
    return f"{size}, {'other' if d & (d - 1) else 'a power of 2'}"


def _heads(case: AttentionCase) -> str:
    return "MHA" if case.geometry.group == 1 else "MQA" if case.geometry.Hk == 1 else "GQA"


def _scale(case: AttentionCase) -> str:
    scale = case.features.scale
    return "default" if scale is None else "0" if scale == 0 else "negative" if scale < 0 else "given"


def _lengths(case: AttentionCase) -> set[str]:
    lengths, Nk = case.features.seqlens_k, case.geometry.Nk
    if lengths is None:
        return {"none given"}
    return {"0" if n == 0 else "all" if n == Nk else "some" for n in lengths}


def _rows(case: AttentionCase) -> set[str]:
    g = case.geometry
    empty = [_empty_rows(case, n) for n in case.lengths]
    kinds = {"no row" if g.Nq == 0 else "all rows" if n == g.Nq else "some rows" if n else "no row" for n in empty}
    return kinds


def _empty_rows(case: AttentionCase, length: int) -> int:
    if length == 0:
        return case.geometry.Nq
    return max(0, case.geometry.Nq - length) if case.features.causal == "lower_right" else 0


def _masks(case: AttentionCase) -> set[str]:
    """What hides keys from the rows of the case, over all its rows."""
    g, causal = case.geometry, case.features.causal
    return {kind for length in case.lengths for kind in _masks_of(g.Nq, g.Nk, length, causal)}


def _masks_of(Nq: int, Nk: int, length: int, causal: Causal) -> Iterator[str]:
    shift = length - Nq if causal == "lower_right" else 0
    first, last = (1 + shift, Nq + shift) if causal else (length, length)
    if Nq == 0 or Nk == 0:
        return
    if length == 0 or first < 1:
        yield "no key"
    if length == Nk and last >= length:
        yield "none"
    if length < Nk and 0 < length <= last:
        yield "length"
    if first < length and last >= 1:
        yield "diagonal" if length == Nk else "diagonal and length"


def _key_tiles(case: AttentionCase) -> set[str]:
    tiles = {-(-length // EDGE) for length in case.lengths}
    return {str(n) if n <= 2 else "3 to 8" if n <= 8 else "over 8" for n in tiles}


def _specialised(case: AttentionCase) -> list[str]:
    g = case.geometry
    return [f"{name} {_kind_of_integer(n)}" for name, n in (("Nq", g.Nq), ("Nk", g.Nk), ("d", g.d), ("Hq", g.Hq))]


def _kind_of_integer(n: int) -> str:
    """How Triton's compiler classes an argument; each class is a kernel of its own."""
    return "1" if n == 1 else "16·n" if n % 16 == 0 else "other"


def rescales(truth: Truth) -> str:
    """How often the running max moves after the first tile, in the last row of the first head: an estimate."""
    W = truth.W[:1, :1, -1:].flatten()
    tiles = torch.split(W, LEAST_TILE)
    if len(tiles) < 2 or W.numel() == 0:
        return "one tile"
    running = torch.stack([tile.amax() for tile in tiles]).cummax(0).values
    moves = int((running.diff() > 0).sum())
    return "none" if moves == 0 else "in every tile" if moves == len(tiles) - 1 else "in some tiles"


def _causal_kinds(subject: Subject) -> list[str]:
    if "causal" not in subject.keywords:
        return ["no"]
    return ["no", *[name.replace("_", "-") for name in subject.alignments]]


def _only(*classes: str) -> Callable[[Subject], Iterable[str]]:
    return lambda subject: classes


def _where_has(keyword: str, *classes: str) -> Callable[[Subject], Iterable[str]]:
    return lambda subject: classes if keyword in subject.keywords else ()


def _possible_masks(subject: Subject) -> list[str]:
    by_length, by_diagonal = "seqlens_k" in subject.keywords, "causal" in subject.keywords
    leaves_rows_empty = by_length or (by_diagonal and "lower_right" in subject.alignments)
    possible = {
        "none": True,
        "length": by_length,
        "diagonal": by_diagonal,
        "diagonal and length": by_length and by_diagonal,
        "no key": leaves_rows_empty,
    }
    return [kind for kind, is_possible in possible.items() if is_possible]


def _possible_specialisations(subject: Subject) -> list[str]:
    free = [f"{name} {kind}" for name in ("Nq", "Nk", "Hq") for kind in ("1", "16·n", "other")]
    return free + sorted({f"d {_kind_of_integer(d)}" for d in subject.head_dims})


def _of_backward(*classes: str) -> Callable[[Subject], Iterable[str]]:
    return lambda subject: classes if "forward_backward" in subject.operations else ()


def _possible_dO_layouts(subject: Subject) -> Iterable[str]:
    return _of_backward(*(subject.layouts or GRADIENT_LAYOUTS))(subject)


def _possible_dLSE(subject: Subject) -> Iterable[str]:
    classes = ("none", "given") if "return_lse" in subject.keywords else ("none",)
    return _of_backward(*classes)(subject)


def _in_backward(case: AttentionCase, name: str) -> list[str]:
    return [name] if case.has_gradients else []


AXES: tuple[Axis, ...] = (
    Axis("dtype", lambda s: s.dtypes, lambda c: [c.dtype]),
    Axis("causal", _causal_kinds, lambda c: [_causal(c)]),
    Axis("Nq against Nk", _only("Nq < Nk", "Nq = Nk", "Nq > Nk"), lambda c: [_order(c)]),
    Axis("Nq", _only("0", "1", "2", "one tile", "two tiles", "more tiles"), lambda c: [_length(c.geometry.Nq)]),
    Axis("Nk", _only("0", "1", "2", "one tile", "two tiles", "more tiles"), lambda c: [_length(c.geometry.Nk)]),
    Axis("tail of Nk", _only("none", "1", "tile - 1", "other"), lambda c: [_tail(c.geometry.Nk)]),
    Axis(
        "d",
        lambda s: sorted({_head_dim(d) for d in s.head_dims}),
        lambda c: [_head_dim(c.geometry.d)],
    ),
    Axis("heads", lambda s: ("MHA", "MQA", "GQA") if s.gqa else ("MHA",), lambda c: [_heads(c)]),
    Axis("scale", _where_has("scale", "default", "given", "0", "negative"), lambda c: [_scale(c)]),
    Axis("seqlens_k", _where_has("seqlens_k", "none given", "0", "some", "all"), _lengths),
    Axis("empty rows", _where_has("seqlens_k", "no row", "some rows", "all rows"), _rows),
    Axis("past the end", _where_has("seqlens_k", *PAST_END), lambda c: [c.past_end] if c.features.seqlens_k else []),
    Axis("config", lambda s: s.configs, lambda c: [c.features.config] if c.features.config else []),
    Axis("layout", lambda s: s.layouts or LAYOUTS, lambda c: {c.q.layout, c.k.layout, c.v.layout}),
    Axis("values", lambda s: FAMILIES, lambda c: {c.q.values, c.k.values, c.v.values}),
    Axis("tail of Nq", _only("none", "1", "tile - 1", "other"), lambda c: [_tail(c.geometry.Nq)]),
    Axis("key tiles", _only("0", "1", "2", "3 to 8", "over 8"), _key_tiles),
    Axis("masked rows", _possible_masks, _masks),
    Axis("specialised", _possible_specialisations, _specialised),
    Axis("rescales", _only("one tile", "none", "in some tiles", "in every tile"), lambda c: ()),
    Axis("operation", lambda s: s.operations, lambda c: [c.operation]),
    Axis("dO layout", _possible_dO_layouts, lambda c: _in_backward(c, c.dO.layout)),
    Axis("dO values", _of_backward(*dict.fromkeys(GRADIENT_VALUES)), lambda c: _in_backward(c, c.dO.values)),
    Axis("dLSE", _possible_dLSE, lambda c: _in_backward(c, "none" if c.dLSE is None else "given")),
    Axis("needs_grad", _of_backward(*map(" ".join, NEEDS)), lambda c: _in_backward(c, " ".join(c.needs_grad))),
    Axis("calls before", _only("none", "some"), lambda c: ["some" if c.history else "none"]),
)


@dataclass
class Coverage:
    """How often each class of each axis was hit."""

    hits: dict[str, Counter[str]] = field(default_factory=lambda: {axis.name: Counter() for axis in AXES})

    def add(self, case: AttentionCase, rescales: str | None = None) -> None:
        """Count a case under every class that it falls into; the class of its rescales is one that its truth tells."""
        for axis in AXES:
            self.hits[axis.name].update(axis.of(case))
        if rescales is not None:
            self.hits["rescales"][rescales] += 1

    def take(self, other: Coverage) -> None:
        """Add what another campaign has hit."""
        for name, hits in other.hits.items():
            self.hits[name].update(hits)

    def missed(self, subject: Subject) -> dict[str, list[str]]:
        """The classes that the subject could have been asked for and was not, by axis."""
        never = {axis.name: [c for c in axis.possible(subject) if not self.hits[axis.name][c]] for axis in AXES}
        return {name: classes for name, classes in never.items() if classes}

    def shares(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Classes hit and classes possible, by axis."""
        pairs = {axis.name: list(axis.possible(subject)) for axis in AXES}
        return {
            n: (sum(bool(self.hits[n][c]) for c in classes), len(classes)) for n, classes in pairs.items() if classes
        }
