"""The last step of shrinking: lengths that a smaller tile, or fewer tiles, would do.

Hypothesis lowers a length step by step while the case still fails. But the values of a case hang on its shape, so the
lengths between 129 and 65, say, may pass by luck, and it stops there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from strategies import AttentionCase

EDGES = (1, 2, 3, 16, 17, 32, 33, 64, 65, 128, 129)


def shorter(case: AttentionCase) -> Iterator[AttentionCase]:
    """The case with fewer keys or queries, at the edges of tiles, the shortest first."""
    for n in EDGES:
        if n < case.geometry.Nk:
            yield case.resized(Nk=n)
        if n < case.geometry.Nq:
            yield case.resized(Nq=n)


def polish(case: AttentionCase, fails: Callable[[AttentionCase], bool]) -> AttentionCase:
    """The shortest case that can be reached from this one while it fails."""
    while smaller := next(filter(fails, shorter(case)), None):
        case = smaller
    return case
