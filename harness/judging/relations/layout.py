"""Relations: the memory layout of the tensors does not matter."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim, LaidOut, place
from harness.judging.relations.gradients import has_backward, same_gradients
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt
from strategies.layouts import LAYOUTS


def _layouts(attempt: Attempt) -> list[str]:
    """Return the layouts that the subject takes and that can hold any values."""
    return [name for name in attempt.subject.layouts or LAYOUTS if not name.startswith("expanded")]


@relation(exact="layout_invariant", when=lambda attempt: len(_layouts(attempt)) > 1)
def any_layout(base: Base) -> Iterator[Claim]:
    """Any strides, offset or expansion give the same as contiguous tensors.

    Bit for bit if all layouts use the same arithmetic, however they are loaded.
    """
    case, names = base.attempt.case, _layouts(base.attempt)
    others = [[names[(first + i) % len(names)] for i in range(3)] for first in range(1, len(names))]
    is_dense = {case.q.layout, case.k.layout, case.v.layout} == {names[0]}
    for layouts in base.choices(others) if is_dense else [[names[0]] * 3]:
        what = f"With q, k and v laid out as {', '.join(layouts)}"
        yield from base.same(base.again(layouts=layouts), what)


@relation(
    exact="layout_invariant",
    when=lambda attempt: has_backward(attempt) and len(_layouts(attempt)) > 1,
    of_gradients=True,
)
def any_dO_layout(base: Base) -> Iterator[Claim]:
    """Any strides of dO and dLSE give the same gradients as contiguous ones.

    Bit for bit for a deterministic subject if all layouts use the same arithmetic.
    """
    case, names = base.attempt.case, _layouts(base.attempt)
    for name in base.choices(names[1:] if case.dO.layout == names[0] else names[:1]):
        dO, dLSE = base.problem.dO, base.problem.dLSE
        assert dO is not None
        laid = LaidOut(place(dO, name))
        laid_lse = None if dLSE is None else LaidOut(place(dLSE[..., None], name)[..., 0])
        yield from same_gradients(base, base.again(dO=laid, dLSE=laid_lse), f"With dO laid out as {name}")
