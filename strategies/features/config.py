"""`config`: a tile configuration by the subject's own name for it."""

from __future__ import annotations

from typing import Any

from strategies.drawing import Draw, any_of
from strategies.features.registry import Axis, Declared, Feature, feature
from strategies.geometry import Geometry
from strategies.spec import require


@feature
class Config(Feature):
    """One of the names that the subject declares; None leaves the choice to the subject."""

    name = "config"
    is_common = True
    anything = ()

    def taken_by(self, subject: Declared) -> tuple[str, ...]:
        """The names that the subject declares."""
        return subject.configs if self.name in subject.keywords else ()

    def narrow(self, asked: Any) -> tuple[str, ...]:
        """A collection of names."""
        return tuple(asked)

    def draw(self, draw: Draw, asked: tuple[str, ...], geometry: Geometry | None) -> str | None:
        """Draw none in half of the cases, else one of the names."""
        name: str | None = draw(any_of((None,) * len(asked) + asked))
        return name

    def check_form(self, value: object) -> None:
        """Raise ValueError unless it is a string."""
        require(isinstance(value, str), f"config must be None or a string, not {value!r}.")

    def axes(self) -> tuple[Axis, ...]:
        """By name."""
        return (Axis("config", self.taken_by, lambda case: [case.features.config] if case.features.config else []),)
