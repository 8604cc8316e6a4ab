"""The small box: every problem of few queries and keys, so that no edge of small sizes is left to chance."""

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
"""Of (q, k, v): scores of either sign; all far below 0, where a padded key's 0 dominates; sums without a rounding."""


def small_box(subject: Subject) -> Iterator[AttentionCase]:
    """Every Nq and Nk from 0 to 4, d of 1 and 16, value of the features, dtype and three value families.

    What the subject does not take is left out; LSE, and gradients of all, are asked for where they can be, dLSE too.
    Smallest first.
    """
    sizes = sorted(itertools.product(range(LONGEST + 1), repeat=2), key=lambda pair: (max(pair), pair))
    dims = [d for d in HEAD_DIMS if d in subject.head_dims]
    for (Nq, Nk), d in itertools.product(sizes, dims):
        geometry = Geometry(Nq=Nq, Nk=Nk, d=d)
        for asked, dtype, (q, k, v) in itertools.product(_features(subject, geometry), subject.dtypes, FAMILIES):
            forward = AttentionCase(geometry, dtype, asked, TensorSpec(q), TensorSpec(k), TensorSpec(v))
            yield from (_asked_for(operation, forward) for operation in subject.operations)


def _features(subject: Subject, geometry: Geometry) -> Iterator[Features]:
    """Every combination of the values that each feature has for a small problem."""
    taken = {name: asked for name, each in FEATURES.items() if (asked := each.taken_by(subject))}
    boxes = [FEATURES[name].box(asked, geometry) for name, asked in taken.items()]
    for values in itertools.product(*boxes):
        yield Features(**dict(zip(taken, values, strict=True)))


def _asked_for(operation: str, case: AttentionCase) -> AttentionCase:
    if operation == "forward":
        return case
    return case.replace(operation=operation, dLSE=TensorSpec() if case.features.return_lse else None)


def sample(subject: Subject, size: int) -> list[AttentionCase]:
    """So many cases of the box, the same each time and spread over it, smallest first."""
    box = list(small_box(subject))
    by_chance = sorted(range(len(box)), key=lambda i: zlib.crc32(repr(box[i]).encode()))
    return [box[i] for i in sorted(by_chance[:size])]
