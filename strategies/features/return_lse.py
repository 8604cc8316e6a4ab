"""`return_lse`: ask for (O, LSE)."""

from __future__ import annotations

from typing import Any

from strategies.drawing import Draw, any_of
from strategies.features.registry import Axis, Feature, feature
from strategies.geometry import Geometry
from strategies.spec import require


@feature
class ReturnLSE(Feature):
    """Whether the call also returns LSE: natural logarithm, fp32, (B, Hq, Nq)."""

    name = "return_lse"
    default = False
    is_common = True

    def draw(self, draw: Draw, asked: Any, geometry: Geometry | None) -> bool:
        """Draw one or the other."""
        return bool(draw(any_of((False, True), "return_lse")))

    def box(self, asked: Any, geometry: Geometry) -> tuple[bool]:
        """Return True only, since LSE shows errors that O may hide."""
        return (True,)

    def check_form(self, value: object) -> None:
        """Raise ValueError unless it is a bool."""
        require(isinstance(value, bool), f"return_lse must be a bool, not {value!r}.")

    def axes(self) -> tuple[Axis, ...]:
        """Return none: whether LSE has a gradient is an axis of the case."""
        return ()
