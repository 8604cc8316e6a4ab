"""How one tensor of a case is made."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.layouts import GRADIENT_LAYOUTS
from strategies.spec import Spec, require_int, require_known
from strategies.values import FAMILIES

MAX_SEED = (1 << 32) - 1


@dataclass(frozen=True, repr=False)
class TensorSpec(Spec):
    """How one tensor is made: its value family, the seed of its values, and its memory layout."""

    values: str = "normal"
    seed: int = 0
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        require_known("value family", self.values, FAMILIES)
        require_known("layout", self.layout, GRADIENT_LAYOUTS)
        require_int("seed", self.seed, 0, MAX_SEED)
