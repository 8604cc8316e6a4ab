"""The small box: every problem with few queries and keys, so that small sizes are tested exhaustively."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

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
    sizes = sorted(itertools.product(range(LONGEST + 1), repeat=2), key=lambda pair: (max(pair), pair))
    dims = [d for d in HEAD_DIMS if d in subject.head_dims]
    for (Nq, Nk), d in itertools.product(sizes, dims):
        geometry = Geometry(Nq=Nq, Nk=Nk, d=d)
        for asked, dtype, (q, k, v) in itertools.product(_features(subject, geometry), subject.dtypes, FAMILIES):
            forward = AttentionCase(geometry, dtype, asked, TensorSpec(q), TensorSpec(k), TensorSpec(v))
            box = (_with_operation(operation, forward, subject.limits.dLSE) for operation in subject.operations)
            yield from filter(subject.takes, box)


def _features(subject: Subject, geometry: Geometry) -> Iterator[Features]:
    """Yield every combination of the features' values for a small problem."""
    taken = {name: asked for name, each in FEATURES.items() if (asked := each.taken_by(subject))}
    boxes = [FEATURES[name].box(asked, geometry) for name, asked in taken.items()]
    for values in itertools.product(*boxes):
        yield Features(**dict(zip(taken, values, strict=True)))


def _with_operation(operation: str, case: AttentionCase, takes_dLSE: bool) -> AttentionCase:
    if operation == "forward":
        return case
    return case.replace(operation=operation, dLSE=TensorSpec() if case.features.return_lse and takes_dLSE else None)


def sample(subject: Subject, size: int) -> list[AttentionCase]:
    """Return a sample of the box of this size, the same each time and spread over it, smallest first."""
    box = list(small_box(subject))
    by_hash = sorted(range(len(box)), key=lambda i: zlib.crc32(repr(box[i]).encode()))
    return [box[i] for i in sorted(by_hash[:size])]
