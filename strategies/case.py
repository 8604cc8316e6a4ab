"""What a case is: one frozen attention problem, small enough to print on a line and to keep in a file.

A case holds no tensor. Its tensors follow from it alone (`strategies.tensors`), the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from strategies.layouts import GRADIENT_LAYOUTS, LAYOUTS
from strategies.spec import Spec, require, require_int
from strategies.values import FAMILIES

Causal = Literal[False, True, "lower_right"]

DTYPES = ("fp32", "fp16", "bf16")
CAUSAL_KINDS: tuple[Causal, ...] = (False, True, "lower_right")
PAST_END = ("values", "nan", "inf", "huge")
OPERATIONS = ("forward", "forward_backward")
INPUTS = ("q", "k", "v")
NEEDS: tuple[tuple[str, ...], ...] = (
    INPUTS,
    ("q",),
    ("k",),
    ("v",),
    ("q", "k"),
    ("q", "v"),
    ("k", "v"),
)
"""What `needs_grad` may be: all inputs, or some of them in their order."""

VARIATIONS: dict[str, Callable[[AttentionCase], AttentionCase]] = {}
"""Calls that may come before a case, by name: `strategies.history` fills it."""

MAX_LENGTH = 1 << 16
MAX_HEAD_DIM = 1024
MAX_ELEMENTS = 1 << 28
MAX_SEED = (1 << 32) - 1
MAX_HISTORY = 8


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


@dataclass(frozen=True, repr=False)
class Features(Spec):
    """What is asked of the attention beyond its tensors: the keyword arguments of the call.

    causal: False, True (upper-left: query i sees keys j <= i) or "lower_right" (shifted by seqlen_k - Nq).
    scale: None means d^-0.5. seqlens_k: visible keys of each batch entry, or None for all Nk.
    return_lse: ask for (O, LSE). config: a tile configuration by the subject's own name for it.
    """

    causal: Causal = False
    scale: float | None = None
    seqlens_k: tuple[int, ...] | None = None
    return_lse: bool = False
    config: str | None = None

    def __post_init__(self) -> None:
        is_kind = isinstance(self.causal, bool) or self.causal == "lower_right"
        require(is_kind, f"causal must be False, True or 'lower_right', not {self.causal!r}.")
        is_number = isinstance(self.scale, float) and math.isfinite(self.scale)
        require(self.scale is None or is_number, f"scale must be None or a finite float, not {self.scale!r}.")
        require(isinstance(self.return_lse, bool), f"return_lse must be a bool, not {self.return_lse!r}.")
        is_text = isinstance(self.config, str)
        require(self.config is None or is_text, f"config must be None or a string, not {self.config!r}.")


@dataclass(frozen=True, repr=False)
class TensorSpec(Spec):
    """How one tensor is made: its value family, the seed of its values, and how it lies in memory."""

    values: str = "normal"
    seed: int = 0
    layout: str = "contiguous"

    def __post_init__(self) -> None:
        require_known("value family", self.values, FAMILIES)
        require_known("layout", self.layout, GRADIENT_LAYOUTS)
        require_int("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True, repr=False)
class AttentionCase(Spec):
    """One attention problem: sizes, dtype, features, one spec a tensor, and the calls that come before it.

    past_end: what stands in K and V at and past `seqlens_k`: the family's "values", or "nan", "inf", "huge".
    history: calls made before this one in the same process, each a variation of this case by name, oldest first.
    Of operation "forward_backward" alone: dO and dLSE, the gradients that come back through O and LSE (dLSE None:
    none comes, as where LSE is not asked for), and needs_grad, the inputs that want a gradient of their own.
    """

    geometry: Geometry = field(default_factory=Geometry)
    dtype: str = "fp32"
    features: Features = field(default_factory=Features)
    q: TensorSpec = field(default_factory=TensorSpec)
    k: TensorSpec = field(default_factory=TensorSpec)
    v: TensorSpec = field(default_factory=TensorSpec)
    past_end: str = "values"
    operation: str = "forward"
    history: tuple[str, ...] = ()
    dO: TensorSpec = field(default_factory=TensorSpec)
    dLSE: TensorSpec | None = None
    needs_grad: tuple[str, ...] = INPUTS

    def __post_init__(self) -> None:
        require_known("dtype", self.dtype, DTYPES)
        require_known("past_end", self.past_end, PAST_END)
        require_known("operation", self.operation, OPERATIONS)
        require(isinstance(self.history, tuple), f"history must be a tuple, not {self.history!r}.")
        require(
            len(self.history) <= MAX_HISTORY, f"history holds {MAX_HISTORY} calls at most, not {len(self.history)}."
        )
        for variation in self.history:
            require_known("variation", variation, VARIATIONS)
        self._check_lengths()
        self._check_layouts()
        self._check_gradients()

    def _check_lengths(self) -> None:
        lengths = self.features.seqlens_k
        if lengths is None:
            return
        require(isinstance(lengths, tuple), f"seqlens_k must be a tuple or None, not {lengths!r}.")
        B = self.geometry.B
        require(len(lengths) == B, f"seqlens_k must hold one length for each of {B} batch entries, not {len(lengths)}.")
        for length in lengths:
            require_int("seqlens_k", length, 0, self.geometry.Nk)

    def _check_layouts(self) -> None:
        for role in INPUTS:
            require_known(f"layout of {role}", getattr(self, role).layout, LAYOUTS)

    def _check_gradients(self) -> None:
        choices = ", ".join(map(repr, NEEDS))
        require(self.needs_grad in NEEDS, f"needs_grad must be one of {choices}, not {self.needs_grad!r}.")
        if not self.has_gradients:
            bare = (self.dO, self.dLSE, self.needs_grad) == (TensorSpec(), None, INPUTS)
            require(bare, "dO, dLSE and needs_grad belong to operation 'forward_backward', not to 'forward'.")
        has_lse = self.features.return_lse
        require(self.dLSE is None or has_lse, "dLSE needs return_lse=True: without it no gradient comes through LSE.")

    @property
    def has_gradients(self) -> bool:
        """Whether gradients are asked for beside the outputs."""
        return self.operation == "forward_backward"

    @property
    def scale(self) -> float:
        """The scale that holds: the case's own, or d^-0.5."""
        return self.geometry.d**-0.5 if self.features.scale is None else self.features.scale

    @property
    def lengths(self) -> tuple[int, ...]:
        """Visible keys of each batch entry."""
        return self.features.seqlens_k or (self.geometry.Nk,) * self.geometry.B

    @property
    def work(self) -> int:
        """Scores of the whole problem, B·Hq·Nq·Nk."""
        return self.geometry.B * self.geometry.Hq * self.geometry.Nq * self.geometry.Nk


def require_known(what: str, name: object, known: object) -> None:
    """Raise ValueError unless the name is one of those known."""
    names = list(known)  # type: ignore[call-overload]
    require(isinstance(name, str) and name in names, f"{what} must be one of {', '.join(names)}, not {name!r}.")
