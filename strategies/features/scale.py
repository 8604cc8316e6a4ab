"""`scale`: what scores are multiplied by."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from strategies.drawing import Draw, any_of
from strategies.features.registry import Axis, Declared, Feature, Variations, feature
from strategies.geometry import Geometry
from strategies.spec import require

SCALES = (None, None, None, 1.0, 0.05, 0.0, -0.25, -1.0)
POSITIVE = "positive"
"""In the place of True: positive scales alone."""
POSITIVE_SCALES = tuple(scale for scale in SCALES if scale is None or scale > 0)


@feature
class Scale(Feature):
    """A finite number, 0 and negative ones too; None means d^-0.5 of the true d."""

    name = "scale"
    is_common = True
    # Twice the scale, or 1 if it is the default or 0.
    variations: ClassVar[Variations] = {"other_scale": lambda scale, geometry: 2 * scale if scale else 1.0}

    def taken_by(self, subject: Declared) -> bool | str:
        """Return True, "positive" if the subject declares that, or False."""
        return self.name in subject.keywords and (POSITIVE if subject.limits.positive_scale else True)

    def narrow(self, asked: Any) -> bool | str:
        """Take True, False or "positive"."""
        return asked if asked == POSITIVE else bool(super().narrow(asked))

    def draw(self, draw: Draw, asked: Any, geometry: Geometry | None) -> float | None:
        """Draw one of a few scales, most often none."""
        scale: float | None = draw(any_of(POSITIVE_SCALES if asked == POSITIVE else SCALES))
        return scale

    def check_form(self, value: object) -> None:
        """Raise ValueError unless it is a finite number."""
        is_number = isinstance(value, float) and math.isfinite(value)
        require(is_number, f"scale must be None or a finite float, not {value!r}.")

    def axes(self) -> tuple[Axis, ...]:
        """By sign."""
        classes = {False: (), POSITIVE: ("default", "given"), True: ("default", "given", "0", "negative")}
        return (
            Axis(
                "scale",
                lambda subject: classes[self.taken_by(subject)],
                lambda case: [_class_of(case.features.scale)],
                has_histogram=True,
            ),
        )


def _class_of(scale: float | None) -> str:
    return "default" if scale is None else "0" if scale == 0 else "negative" if scale < 0 else "given"
