"""The sizes of an attention problem."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.spec import Spec, require, require_int

MAX_LENGTH = 1 << 16
MAX_HEAD_DIM = 1024
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, repr=False)
class Geometry(Spec):
    """Sizes: q is (B, Hq, Nq, d), k and v are (B, Hk, Nk, d), and Hq is a multiple of Hk."""

    B: int = 1
    Hq: int = 1
    Hk: int = 1
    Nq: int = 1
    Nk: int = 1
    d: int = 1

    def __post_init__(self) -> None:
        for name in ("B", "Hq", "Hk"):
            require_int(name, getattr(self, name), 1, MAX_LENGTH * 4)
        for name in ("Nq", "Nk"):
            require_int(name, getattr(self, name), 0, MAX_LENGTH)
        require_int("d", self.d, 1, MAX_HEAD_DIM)
        require(self.Hq % self.Hk == 0, f"Hq must be a multiple of Hk, not {self.Hq} against {self.Hk}.")
        largest = self.B * max(self.Hq * self.Nq, self.Hk * self.Nk) * self.d
        require(largest <= MAX_ELEMENTS, f"A tensor of a case holds at most {MAX_ELEMENTS} elements, not {largest}.")

    @property
    def q_shape(self) -> tuple[int, int, int, int]:
        """Shape of q and of O."""
        return (self.B, self.Hq, self.Nq, self.d)

    @property
    def k_shape(self) -> tuple[int, int, int, int]:
        """Shape of k and of v."""
        return (self.B, self.Hk, self.Nk, self.d)

    @property
    def group(self) -> int:
        """Query heads that share one head of K and V."""
        return self.Hq // self.Hk
