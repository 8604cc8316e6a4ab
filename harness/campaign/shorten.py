"""The last step of shrinking: parts of the case take their default value, and lengths those of fewer tiles.

Hypothesis lowers a length step by step while the case still fails. But the values of a case depend on its shape, so the
lengths between 129 and 65, say, may pass by luck, and it stops there. A case that Hypothesis did not draw is shrunk
here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from harness.subject.declaration import Subject
from strategies import AttentionCase, TensorSpec
from strategies.case import DTYPES, INPUTS
from strategies.features import FEATURES

EDGES = (1, 2, 3, 16, 17, 32, 33, 64, 65, 128, 129)
DIMS = (1, 2, 8, 16, 32, 64, 128)


def shorten(
    case: AttentionCase, fails: Callable[[AttentionCase], bool], subject: Subject | None = None
) -> AttentionCase:
    """Return the smallest case that can be reached from this one through cases that fail.

    subject: whose dtypes and head dimensions the cases must have; None: lengths alone are changed.
    """
    while smaller := next(filter(fails, _smaller_cases(case, subject)), None):
        case = smaller
    return case


def _smaller_cases(case: AttentionCase, subject: Subject | None) -> Iterator[AttentionCase]:
    if subject is not None:
        yield from simpler_cases(case, subject)
    yield from shorter_cases(case)


def simpler_cases(case: AttentionCase, subject: Subject) -> Iterator[AttentionCase]:
    """Yield the case with one part at its default: operation, calls before it, feature, tensor, dtype, heads, or d."""
    for changes in _simplifications(case, subject):
        sizes = changes.pop("sizes", {})
        with suppress(ValueError):  # the part that changes may be one that another part needs
            changed = case.replace(**changes).resized(**sizes)
            if changed != case:
                yield changed


def _simplifications(case: AttentionCase, subject: Subject) -> Iterator[dict[str, Any]]:
    yield {"history": ()}
    if "forward" in subject.operations:
        yield {"operation": "forward", "dO": TensorSpec(), "dLSE": None, "needs_grad": INPUTS}
    yield {"dLSE": None}
    for name in case.features.asked():
        yield {"features": case.features.replace(**{name: FEATURES[name].default})}
    yield {"past_end": "values"}
    for name in (*INPUTS, "dO"):
        spec: TensorSpec = getattr(case, name)
        if subject.layouts is None or "contiguous" in subject.layouts:
            yield {name: spec.replace(layout="contiguous")}
        yield {name: spec.replace(values="normal")}
    yield from ({"sizes": {name: 1}} for name in ("Nq", "Nk") if getattr(case.geometry, name) == 0)
    yield from ({"sizes": sizes} for sizes in ({"B": 1}, {"Hq": 1, "Hk": 1}, {"Hq": case.geometry.Hk}))
    yield from ({"sizes": {"d": d}} for d in DIMS if d < case.geometry.d and d in subject.head_dims)
    yield from ({"dtype": dtype} for dtype in DTYPES[: DTYPES.index(case.dtype)] if dtype in subject.dtypes)


def shorter_cases(case: AttentionCase) -> Iterator[AttentionCase]:
    """Yield the case with fewer keys or queries, at the edges of tiles, the shortest first."""
    for n in EDGES:
        if n < case.geometry.Nk:
            yield case.resized(Nk=n)
        if n < case.geometry.Nq:
            yield case.resized(Nq=n)
