"""A failing case made large enough to show a pattern: one wrong element does not show where others would be."""

from __future__ import annotations

from collections.abc import Iterator

from harness.subject.declaration import Subject
from strategies import AttentionCase

LENGTH = 96
"""Queries and keys of the larger case: more than one tile of 64, and a tail."""

HEAD_DIM = 32


def larger(case: AttentionCase, subject: Subject) -> Iterator[AttentionCase]:
    """Yield the case with more rows, keys and columns, then with fewer of these: an edge of it may be what fails.

    Lengths of keys that the case names (`seqlens_k`) stay, and then so does the number of keys.
    """
    g = case.geometry
    rows = max(g.Nq, LENGTH)
    keys = g.Nk if case.features.seqlens_k is not None else max(g.Nk, LENGTH)
    d = next((d for d in sorted(subject.head_dims) if d >= max(g.d, HEAD_DIM)), g.d)
    shapes = [(rows, keys, d), (rows, g.Nk, d), (rows, g.Nk, g.d), (g.Nq, g.Nk, d)]
    for Nq, Nk, width in dict.fromkeys(shapes):
        if (Nq, Nk, width) != (g.Nq, g.Nk, g.d):
            yield case.resized(Nq=Nq, Nk=Nk, d=width)
