"""The small box: every problem of few queries and keys, so that no edge of small sizes is left to chance."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

from harness.subject.declaration import Subject
from strategies import AttentionCase, Features, Geometry, TensorSpec

LONGEST = 4
HEAD_DIMS = (1, 16)
FAMILIES = (
    ("normal", "normal", "normal"),
    ("positive", "negative", "normal"),
    ("small_integers", "small_integers", "small_integers"),
)
"""Of (q, k, v): scores of either sign; all far below 0, where a padded key's 0 dominates; sums without a rounding."""


def small_box(subject: Subject) -> Iterator[AttentionCase]:
    """Every Nq and Nk from 0 to 4, d of 1 and 16, causal kind, visible length, dtype and three value families.

    What the subject does not take is left out; LSE, and gradients of all, are asked for where they can be, dLSE too.
    Smallest first.
    """
    sizes = sorted(itertools.product(range(LONGEST + 1), repeat=2), key=lambda pair: (max(pair), pair))
    dims = [d for d in HEAD_DIMS if d in subject.head_dims]
    for (Nq, Nk), d, causal in itertools.product(sizes, dims, subject.causal_kinds()):
        for lengths, dtype, (q, k, v) in itertools.product(_lengths(subject, Nk), subject.dtypes, FAMILIES):
            asked = Features(causal, seqlens_k=lengths, return_lse="return_lse" in subject.keywords)
            specs = TensorSpec(q), TensorSpec(k), TensorSpec(v)
            forward = AttentionCase(Geometry(Nq=Nq, Nk=Nk, d=d), dtype, asked, *specs)
            yield from (_asked_for(operation, forward) for operation in subject.operations)


def _asked_for(operation: str, case: AttentionCase) -> AttentionCase:
    if operation == "forward":
        return case
    return case.replace(operation=operation, dLSE=TensorSpec() if case.features.return_lse else None)


def sample(subject: Subject, size: int) -> list[AttentionCase]:
    """So many cases of the box, the same each time and spread over it, smallest first."""
    box = list(small_box(subject))
    by_chance = sorted(range(len(box)), key=lambda i: zlib.crc32(repr(box[i]).encode()))
    return [box[i] for i in sorted(by_chance[:size])]


def _lengths(subject: Subject, Nk: int) -> list[tuple[int] | None]:
    return [None, *((n,) for n in range(Nk + 1))] if "seqlens_k" in subject.keywords else [None]
