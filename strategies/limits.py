"""What a subject's cases are confined to, beyond dtypes, head dims and layouts: one declared fact each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.geometry import MAX_LENGTH
from strategies.layouts import GRADIENT_LAYOUTS
from strategies.spec import require, require_int, require_known

if TYPE_CHECKING:
    from strategies.case import AttentionCase


@dataclass(frozen=True)
class Limits:
    """What cases are confined to; a default confines nothing.

    self_attention: Nq = Nk. Nq_multiple_of, Nk_multiple_of: the numbers that Nq and Nk are multiples of. max_Nq: the
    maximum of Nq. min_length: the minimum of Nq and Nk. positive_scale: no scale of 0 or less. unit_last_stride: no
    layout whose last stride is not 1. same_layout: q, k and v have one layout. dO_layouts: the layouts of dO and dLSE;
    None: those of q, k and v. dLSE: whether LSE may have a gradient.
    """

    self_attention: bool = False
    Nq_multiple_of: int = 1
    Nk_multiple_of: int = 1
    max_Nq: int = MAX_LENGTH
    min_length: int = 0
    positive_scale: bool = False
    unit_last_stride: bool = False
    same_layout: bool = False
    dO_layouts: tuple[str, ...] | None = None
    dLSE: bool = True

    def __post_init__(self) -> None:
        for name in ("self_attention", "positive_scale", "unit_last_stride", "same_layout", "dLSE"):
            require(
                isinstance(getattr(self, name), bool), f"{name} must be True or False, not {getattr(self, name)!r}."
            )
        for name in ("Nq_multiple_of", "Nk_multiple_of", "max_Nq"):
            require_int(name, getattr(self, name), 1, MAX_LENGTH)
        require_int("min_length", self.min_length, 0, MAX_LENGTH)
        for name in () if self.dO_layouts is None else self.dO_layouts:
            require_known("layout of dO", name, GRADIENT_LAYOUTS)
        require(self.dO_layouts != (), "dO_layouts must name one layout at least.")
        least = self._steps[0]
        require(least <= self.max_Nq, f"max_Nq must be {least} or more, not {self.max_Nq}.")

    @property
    def _steps(self) -> tuple[int, int]:
        """The numbers that Nq and Nk are multiples of."""
        both = math.lcm(self.Nq_multiple_of, self.Nk_multiple_of)
        return (both, both) if self.self_attention else (self.Nq_multiple_of, self.Nk_multiple_of)

    def lengths(self, Nq: int, Nk: int, max_Nq: int, max_Nk: int) -> tuple[int, int]:
        """Return the lengths nearest to Nq and Nk that are allowed: rounded up, but kept under the maxima if possible.

        A longer length never gives a shorter one, so that cases shrink.
        """
        if self == NO_LIMITS:
            return min(Nq, max_Nq), min(Nk, max_Nk)
        max_Nq = min(max_Nq, self.max_Nq)
        if self.self_attention:
            Nq = Nk
            max_Nq = max_Nk = min(max_Nq, max_Nk)
        step_q, step_k = self._steps
        return self._length(Nq, step_q, max_Nq), self._length(Nk, step_k, max_Nk)

    def _length(self, n: int, step: int, most: int) -> int:
        least = -(-self.min_length // step) * step
        rounded = -(-n // step) * step
        return max(least, min(rounded, max(step, most // step * step)))

    def layouts(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the layouts among these that are allowed."""
        return tuple(name for name in names if not self.unit_last_stride or has_unit_last_stride(name))

    def broken_by(self, case: AttentionCase) -> str | None:
        """Return the name of the first limit that a case does not keep, or None."""
        fields = (field.name for field in dataclasses.fields(self))
        asked = (name for name in fields if getattr(self, name) != getattr(NO_LIMITS, name))
        return next((name for name in asked if not KEPT[name](case, getattr(self, name))), None)


def has_unit_last_stride(layout: str) -> bool:
    """Whether the last stride of a layout is 1, whatever the shape."""
    return GRADIENT_LAYOUTS[layout]((2, 2, 2, 2)).strides[3] == 1


def _layouts_of(case: AttentionCase) -> set[str]:
    return {case.q.layout, case.k.layout, case.v.layout}


def _gradient_layouts(case: AttentionCase) -> set[str]:
    return {spec.layout for spec in (case.dO, case.dLSE) if spec is not None} if case.has_gradients else set()


KEPT: Mapping[str, Callable[..., bool]] = {
    "self_attention": lambda case, value: case.geometry.Nq == case.geometry.Nk,
    "Nq_multiple_of": lambda case, value: case.geometry.Nq % value == 0,
    "Nk_multiple_of": lambda case, value: case.geometry.Nk % value == 0,
    "max_Nq": lambda case, value: case.geometry.Nq <= value,
    "min_length": lambda case, value: min(case.geometry.Nq, case.geometry.Nk) >= value,
    "positive_scale": lambda case, value: case.scale > 0,
    "unit_last_stride": lambda case, value: all(map(has_unit_last_stride, _layouts_of(case) | _gradient_layouts(case))),
    "same_layout": lambda case, value: len(_layouts_of(case)) == 1,
    "dO_layouts": lambda case, value: _gradient_layouts(case) <= set(value),
    "dLSE": lambda case, value: case.dLSE is None,
}
"""Whether a case keeps a limit, by its name: each takes the case and the limit's value, which is not its default."""

NO_LIMITS = Limits()
