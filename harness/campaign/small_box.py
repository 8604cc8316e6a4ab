"""The small box: every problem with few queries and keys, so that small sizes are tested exhaustively."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from harness.subject.declaration import Subject
from strategies import AttentionCase, Features, Geometry, TensorSpec
from strategies.features import FEATURES

LONGEST = 4
HEAD_DIMS = (1, 16)
FAMILIES = (
    ("normal", "normal", "normal"),
    ("positive", "negative", "normal"),
    ("small_integers", "small_integers", "small_integers"),
)
"""Of (q, k, v): scores of both signs; all far below 0, where a padded key's 0 dominates; sums without rounding."""


def small_box(subject: Subject) -> Iterator[AttentionCase]:
    """Yield every Nq and Nk from 0 to 4 with d of 1 and 16, every feature value and dtype, and three value families.

    What the subject does not support is left out. LSE, all gradients and dLSE are included if it supports them.
    Smallest first.
    """
    sizes = _sizes()
    dims = [d for d in HEAD_DIMS if d in subject.head_dims]
    for (Nq, Nk), d in itertools.product(sizes, dims):
        geometry = Geometry(Nq=Nq, Nk=Nk, d=d)
        for asked, dtype, (q, k, v) in itertools.product(_features(subject, geometry), subject.dtypes, FAMILIES):
            forward = AttentionCase(geometry, dtype, asked, TensorSpec(q), TensorSpec(k), TensorSpec(v))
            box = (_with_operation(operation, forward, subject.limits.dLSE) for operation in subject.operations)
            yield from filter(subject.takes, box)


def _sizes() -> list[tuple[int, int]]:
    """Return all pairs of Nq and Nk, smallest first."""
    lengths = range(LONGEST + 1)
    return sorted(itertools.product(lengths, lengths), key=lambda pair: (max(pair), pair))


def _boxes(subject: Subject, geometry: Geometry) -> dict[str, tuple[Any, ...]]:
    """Return the values of each feature that the subject takes, for a small problem."""
    taken = {name: asked for name, each in FEATURES.items() if (asked := each.taken_by(subject))}
    return {name: tuple(FEATURES[name].box(asked, geometry)) for name, asked in taken.items()}


def _features(subject: Subject, geometry: Geometry) -> Iterator[Features]:
    """Yield every combination of the features' values for a small problem."""
    boxes = _boxes(subject, geometry)
    for values in itertools.product(*boxes.values()):
        yield Features(**dict(zip(boxes, values, strict=True)))


def _with_operation(operation: str, case: AttentionCase, takes_dLSE: bool) -> AttentionCase:
    if operation == "forward":
        return case
    return case.replace(operation=operation, dLSE=TensorSpec() if case.features.return_lse and takes_dLSE else None)


def sample(subject: Subject, size: int) -> list[AttentionCase]:
    """Return a sample of the box of up to this size, the same each time and spread over it, smallest first.

    The box itself is not made: it may hold a hundred thousand cases.
    """
    sizes, dims = _sizes(), [d for d in HEAD_DIMS if d in subject.head_dims]
    drawn: dict[tuple[Any, ...], AttentionCase] = {}
    numbers = random.Random(size)
    for _ in range(2 * size if dims else 0):
        size_at, dim_at = numbers.randrange(len(sizes)), numbers.randrange(len(dims))
        (Nq, Nk), d = sizes[size_at], dims[dim_at]
        geometry = Geometry(Nq=Nq, Nk=Nk, d=d)
        boxes = list(_boxes(subject, geometry).items())
        axes = [*(box for _, box in boxes), subject.dtypes, FAMILIES, subject.operations]
        chosen = [numbers.randrange(len(axis)) for axis in axes]
        *values, dtype, (q, k, v), operation = (axis[i] for axis, i in zip(axes, chosen, strict=True))
        features = Features(**{name: value for (name, _), value in zip(boxes, values, strict=True)})
        case = AttentionCase(geometry, dtype, features, TensorSpec(q), TensorSpec(k), TensorSpec(v))
        asked = _with_operation(operation, case, subject.limits.dLSE)
        if subject.takes(asked):
            drawn[size_at, dim_at, *chosen] = asked
    return [drawn[place] for place in sorted(sorted(drawn, key=hash)[:size])]
