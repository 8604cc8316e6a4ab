"""How a campaign begins: with some of the small box, and a tour of default cases of which one part differs.

What fails on a case that is nearly the default one fails here, and needs no shrinking to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.campaign.small_box import FAMILIES, sample
from harness.subject.declaration import Subject
from strategies import AttentionCase, Features, Geometry, TensorSpec
from strategies.features import FEATURES
from strategies.layouts import LAYOUTS

BOX_CASES = 200
PART_SECONDS = 2.0
SHARE = 20
"""A part of the opening takes at most one in this many of a campaign's seconds and cases."""

LENGTH = 33
HEADS = 2
HEAD_DIM = 32
HEAD_DIMS = (1, 8, 16, 40, 64, 80, 96, 128, 192, 256)
MOST_VALUES = 4
"""Values of one feature that are tried."""


@dataclass(frozen=True)
class Part:
    """Some cases of the opening; those that there is no time for within some seconds are left out."""

    cases: Iterable[AttentionCase]
    seconds: float


def opening(subject: Subject, seconds: float | None, cases: int | None) -> tuple[Part, ...]:
    """Return the parts of the opening of a campaign with these limits.

    Where no time limits the campaign, none limits the opening: a seed then always gives the same cases.
    """
    most = BOX_CASES if cases is None else min(BOX_CASES, cases // SHARE)
    limit = math.inf if seconds is None else min(PART_SECONDS, seconds / SHARE)
    around = list(tour(subject))
    chosen = around if cases is None else around[: cases // SHARE * 2]
    return (Part(sample(subject, most) if most else (), limit), Part(chosen, 2 * limit))


def tour(subject: Subject) -> Iterator[AttentionCase]:
    """Yield a default case, and those that differ from it in one part, as far as the subject takes them."""
    d = min(subject.head_dims, key=lambda d: (abs(d - HEAD_DIM), d))
    default = AttentionCase(Geometry(Hq=HEADS, Hk=HEADS, Nq=LENGTH, Nk=LENGTH, d=d), dtype=subject.dtypes[0])
    if subject.layouts is not None and "contiguous" not in subject.layouts:
        first = next(name for name in subject.layouts if name in LAYOUTS)
        default = default.replace(**_for_inputs(layout=first))
    last = subject.operations[-1]
    for changes in ({}, *_changes(subject, default)):
        sizes = changes.pop("sizes", {})
        with suppress(ValueError):
            case = default.resized(**sizes).replace(operation=last, **changes)
            if (case != default or not changes) and subject.takes(case):
                yield case


def _changes(subject: Subject, default: AttentionCase) -> Iterator[dict[str, Any]]:
    for dtype in subject.dtypes[1:]:
        yield {"dtype": dtype}
    for name, each in FEATURES.items():
        if name in subject.keywords and (asked := each.taken_by(subject)):
            for value in _spread(name, asked, default.geometry):
                yield {"features": Features(**{name: value})}
    N = LENGTH
    sizes: list[dict[str, int]] = [{"Nq": 1}, {"Nk": 1}, {"Nq": N // 2}, {"Nk": N // 2}, {"Nq": 2 * N, "Nk": 2 * N}]
    sizes += [{"B": 3}, *([{"Hk": 1}] if subject.gqa else []), {"Nk": 0}, {"Nq": 0}]
    sizes += [{"d": d} for d in HEAD_DIMS if d in subject.head_dims and d != default.geometry.d]
    yield from ({"sizes": each} for each in sizes)
    for name in LAYOUTS:
        if subject.layouts is None or name in subject.layouts:
            yield _for_inputs(layout=name)
    for families in FAMILIES[1:]:
        yield {role: TensorSpec(family) for role, family in zip("qkv", families, strict=True)}


def _for_inputs(**spec: Any) -> dict[str, Any]:
    return {role: TensorSpec(**spec) for role in ("q", "k", "v")}


def _spread(name: str, asked: Any, geometry: Geometry) -> list[Any]:
    """Return a few values of a feature that are not its default: of its box or, without one, of its variations."""
    feature = FEATURES[name]
    varied = (change(feature.default, geometry) for change in feature.variations.values())
    of_box, of_variations = (
        [value for value in values if value != feature.default and value is not None]
        for values in (feature.box(asked, geometry), varied)
    )
    distinct = list(dict.fromkeys(of_box or of_variations))
    step = max(1, -(-len(distinct) // MOST_VALUES))
    return distinct[::-step][::-1]
