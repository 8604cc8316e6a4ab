"""How the tensors lie in memory does not matter."""

from __future__ import annotations

from collections.abc import Iterator

from harness.attempt import Attempt
from harness.relations.base import Base, Claim
from harness.relations.registry import relation
from strategies.layouts import LAYOUTS


def _layouts(attempt: Attempt) -> list[str]:
    """Layouts that the subject takes and that can hold any values."""
    return [name for name in attempt.subject.layouts or LAYOUTS if not name.startswith("expanded")]


@relation(exact="layout_invariant", when=lambda attempt: len(_layouts(attempt)) > 1)
def any_layout(base: Base) -> Iterator[Claim]:
    """Any strides, offset or expansion give what contiguous tensors give, and contiguous ones what any strides do.

    Bit for bit where all layouts end in the same arithmetic, whichever way they are loaded.
    """
    case, names = base.attempt.case, _layouts(base.attempt)
    others = [[names[(first + i) % len(names)] for i in range(3)] for first in range(1, len(names))]
    is_dense = {case.q.layout, case.k.layout, case.v.layout} == {names[0]}
    for layouts in base.choices(others) if is_dense else [[names[0]] * 3]:
        what = f"With q, k and v laid out as {', '.join(layouts)}"
        yield from base.same(base.again(layouts=layouts), what)
