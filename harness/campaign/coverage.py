"""Coverage of a campaign: how often each class of each axis was hit, and which never were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import product

from harness.judging.seen import Seen
from harness.subject.declaration import Subject
from strategies import AttentionCase
from strategies.case import NEEDS
from strategies.draw import GRADIENT_VALUES
from strategies.features import FEATURES, ROWS, Axis, Feature
from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.values import FAMILIES

TILE = 64
"""The tile that tail lengths are classified by; any power of two would do."""


def _order(case: AttentionCase) -> str:
    g = case.geometry
    return "Nq < Nk" if g.Nq < g.Nk else "Nq = Nk" if g.Nq == g.Nk else "Nq > Nk"


def _possible_orders(subject: Subject) -> Iterable[str]:
    return ("Nq = Nk",) if subject.limits.self_attention else ("Nq < Nk", "Nq = Nk", "Nq > Nk")


def _length(n: int) -> str:
    return str(n) if n <= 2 else "one tile" if n <= TILE else "two tiles" if n <= 2 * TILE else "more tiles"


def _tail(n: int) -> str:
    return {0: "none", 1: "1", TILE - 1: "tile - 1"}.get(n % TILE, "other")


def _head_dim(d: int) -> str:
    if d < 16:
        return "under 16"
    size = "to 128" if d <= 128 else "to 256" if d <= 256 else "over 256"
    return f"{size}, {'other' if d & (d - 1) else 'a power of 2'}"


def _heads(case: AttentionCase) -> str:
    return "MHA" if case.geometry.group == 1 else "MQA" if case.geometry.Hk == 1 else "GQA"


def _key_tiles(case: AttentionCase) -> set[str]:
    tiles = {-(-length // TILE) for length in case.lengths}
    return {str(n) if n <= 2 else "3 to 8" if n <= 8 else "over 8" for n in tiles}


def _specialisations(case: AttentionCase) -> list[str]:
    g = case.geometry
    return [f"{name} {_kind_of_integer(n)}" for name, n in (("Nq", g.Nq), ("Nk", g.Nk), ("d", g.d), ("Hq", g.Hq))]


def _kind_of_integer(n: int) -> str:
    """Return the class of an argument in Triton's compiler; each class is compiled to a kernel of its own."""
    return "1" if n == 1 else "16·n" if n % 16 == 0 else "other"


def _always(*classes: str) -> Callable[[Subject], Iterable[str]]:
    return lambda subject: classes


def _possible_rows(subject: Subject) -> list[str]:
    hidden = {name for each in FEATURES.values() for name in each.hides(subject)}
    return [name for name in ROWS if name == "every key" or name in hidden]


def _possible_empty_rows(subject: Subject) -> tuple[str, ...]:
    return ("no row", "some rows", "all rows") if "no key" in _possible_rows(subject) else ()


def _possible_specialisations(subject: Subject) -> list[str]:
    free = [f"{name} {kind}" for name in ("Nq", "Nk", "Hq") for kind in ("1", "16·n", "other")]
    return free + sorted({f"d {_kind_of_integer(d)}" for d in subject.head_dims})


def _if_backward(*classes: str) -> Callable[[Subject], Iterable[str]]:
    return lambda subject: classes if "forward_backward" in subject.operations else ()


def _possible_dO_layouts(subject: Subject) -> Iterable[str]:
    return _if_backward(*(subject.limits.dO_layouts or subject.limits.layouts(subject.layouts or GRADIENT_LAYOUTS)))(
        subject
    )


def _possible_dLSE(subject: Subject) -> Iterable[str]:
    classes = ("none", "given") if "return_lse" in subject.keywords and subject.limits.dLSE else ("none",)
    return _if_backward(*classes)(subject)


def _in_backward(case: AttentionCase, name: str) -> list[str]:
    return [name] if case.has_gradients else []


def _from_truth(case: AttentionCase) -> tuple[str, ...]:
    """Return no class: `harness.judging.seen` finds them from the truth."""
    return ()


def _pair(name: str, *parts: Axis) -> Axis:
    """Return the axis of all combinations of the classes of some axes."""
    return Axis(
        name,
        lambda subject: map(" x ".join, product(*(part.possible(subject) for part in parts))),
        lambda case: map(" x ".join, product(*(part.of(case) for part in parts))),
    )


def _key_layouts(subject: Subject) -> Iterable[str]:
    return [name for name in subject.limits.layouts(subject.layouts or LAYOUTS) if name in LAYOUTS]


def _group(case: AttentionCase) -> list[str]:
    """Return the class of the group of a single query row; none if there are more rows."""
    group = case.geometry.group
    if case.geometry.Nq != 1:
        return []
    return ["1" if group == 1 else "a power of 2" if group & (group - 1) == 0 else "another group"]


def _magnitude(n: int) -> str:
    return "to 255" if n < 256 else "to 1023" if n < 1024 else "to 4095" if n < 4096 else "from 4096"


def axes() -> tuple[Axis, ...]:
    """All axes: those of every case and those of the features."""
    return _axes_with(tuple(FEATURES.values()))


@cache
def _axes_with(features: tuple[Feature, ...]) -> tuple[Axis, ...]:
    return (*AXES, *PAIRS, *(axis for each in features for axis in each.axes()))


AXES: tuple[Axis, ...] = (
    Axis("dtype", lambda s: s.dtypes, lambda c: [c.dtype], has_histogram=True),
    Axis("Nq against Nk", _possible_orders, lambda c: [_order(c)], has_histogram=True),
    Axis("Nq", _always("0", "1", "2", "one tile", "two tiles", "more tiles"), lambda c: [_length(c.geometry.Nq)]),
    Axis("Nk", _always("0", "1", "2", "one tile", "two tiles", "more tiles"), lambda c: [_length(c.geometry.Nk)]),
    Axis("tail of Nk", _always("none", "1", "tile - 1", "other"), lambda c: [_tail(c.geometry.Nk)], has_histogram=True),
    Axis(
        "d",
        lambda s: sorted({_head_dim(d) for d in s.head_dims}),
        lambda c: [_head_dim(c.geometry.d)],
        has_histogram=True,
    ),
    Axis("heads", lambda s: ("MHA", "MQA", "GQA") if s.gqa else ("MHA",), lambda c: [_heads(c)], has_histogram=True),
    Axis("empty rows", _possible_empty_rows, _from_truth),
    Axis("layout", _key_layouts, lambda c: {c.q.layout, c.k.layout, c.v.layout}, has_histogram=True),
    Axis("values", lambda s: FAMILIES, lambda c: {c.q.values, c.k.values, c.v.values}, has_histogram=True),
    Axis("tail of Nq", _always("none", "1", "tile - 1", "other"), lambda c: [_tail(c.geometry.Nq)]),
    Axis("key tiles", _always("0", "1", "2", "3 to 8", "over 8"), _key_tiles),
    Axis("masked rows", _possible_rows, _from_truth),
    Axis("specialised", _possible_specialisations, _specialisations),
    Axis("rescales", _always("one tile", "none", "in some tiles", "in every tile"), _from_truth),
    Axis("operation", lambda s: s.operations, lambda c: [c.operation], has_histogram=True),
    Axis("dO layout", _possible_dO_layouts, lambda c: _in_backward(c, c.dO.layout), has_histogram=True),
    Axis(
        "dO values",
        _if_backward(*dict.fromkeys(GRADIENT_VALUES)),
        lambda c: _in_backward(c, c.dO.values),
        has_histogram=True,
    ),
    Axis("dLSE", _possible_dLSE, lambda c: _in_backward(c, "none" if c.dLSE is None else "given")),
    Axis("needs_grad", _if_backward(*map(" ".join, NEEDS)), lambda c: _in_backward(c, " ".join(c.needs_grad))),
    Axis("calls before", _always("none", "some"), lambda c: ["some" if c.history else "none"]),
)

_TAIL = Axis("tail of Nk", _always("none", "1", "tile - 1", "other"), lambda c: [_tail(c.geometry.Nk)])
_MANY_HEADS = Axis(
    "Hk", _always("one head", "some heads"), lambda c: ["one head" if c.geometry.Hk == 1 else "some heads"]
)
_DIM = Axis("d", lambda s: sorted({_head_dim(d) for d in s.head_dims}), lambda c: [_head_dim(c.geometry.d)])

PAIRS: tuple[Axis, ...] = (
    _pair(
        "layout of k x Hk x tail of Nk", Axis("layout of k", _key_layouts, lambda c: [c.k.layout]), _MANY_HEADS, _TAIL
    ),
    _pair("d x tail of Nk", _DIM, _TAIL),
    _pair(
        "Nq 1: group x Nk",
        Axis("group", lambda s: ("1", "a power of 2", "another group") if s.gqa else ("1",), _group),
        Axis(
            "Nk",
            lambda s: () if s.limits.self_attention else ("to 255", "to 1023", "to 4095", "from 4096"),
            lambda c: [_magnitude(c.geometry.Nk)],
        ),
    ),
)
"""Combinations in which kernels have been wrong where each class alone was right."""


@dataclass
class Coverage:
    """How often each class of each axis was hit."""

    hits: dict[str, Counter[str]] = field(default_factory=lambda: {axis.name: Counter() for axis in axes()})

    def add(self, case: AttentionCase, seen: Seen | None = None) -> None:
        """Count a case under each of its classes; seen: those found from its truth, by axis."""
        for axis in axes():
            self.hits[axis.name].update(axis.of(case))
        for name, classes in (seen or {}).items():
            self.hits[name].update(classes)

    def take(self, other: Coverage) -> None:
        """Add what another campaign has hit."""
        for name, hits in other.hits.items():
            self.hits[name].update(hits)

    def missed(self, subject: Subject) -> dict[str, list[str]]:
        """Return the classes that were possible for the subject but never hit, by axis."""
        never = {axis.name: [c for c in axis.possible(subject) if not self.hits[axis.name][c]] for axis in axes()}
        return {name: classes for name, classes in never.items() if classes}

    def shares(self, subject: Subject) -> dict[str, tuple[int, int]]:
        """Return the number of classes hit and of classes possible, by axis."""
        pairs = {axis.name: list(axis.possible(subject)) for axis in axes()}
        return {
            n: (sum(bool(self.hits[n][c]) for c in classes), len(classes)) for n, classes in pairs.items() if classes
        }
