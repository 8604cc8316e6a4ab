"""The last step of shrinking: lengths that a smaller tile, or fewer tiles, would do.

Hypothesis lowers a length step by step while the case still fails. But the values of a case depend on its shape, so the
lengths between 129 and 65, say, may pass by luck, and it stops there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from strategies import AttentionCase

EDGES = (1, 2, 3, 16, 17, 32, 33, 64, 65, 128, 129)


def shorten(case: AttentionCase, fails: Callable[[AttentionCase], bool]) -> AttentionCase:
    """Return the shortest case that can be reached from this one through cases that fail."""
    while shorter := next(filter(fails, shorter_cases(case)), None):
        case = shorter
    return case


def shorter_cases(case: AttentionCase) -> Iterator[AttentionCase]:
    """Yield the case with fewer keys or queries, at the edges of tiles, the shortest first."""
    for n in EDGES:
        if n < case.geometry.Nk:
            yield case.resized(Nk=n)
        if n < case.geometry.Nq:
            yield case.resized(Nq=n)
