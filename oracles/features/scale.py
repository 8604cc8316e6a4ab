"""The scale: a score is scale·q·k, before any other feature maps it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from oracles.features.registry import Meaning, meaning


@meaning("scale")
class Scale(Meaning):
    """Every problem has a scale (`Problem.scale`), so truth, gradients and budget multiply by it themselves."""

    def breaks(self, value: Any) -> Collection[str]:
        """A small scale makes weights equal, and equal weights round alike."""
        return ("independent",)
