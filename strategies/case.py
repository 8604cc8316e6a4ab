"""A case: one frozen attention problem, small enough to print on one line and to keep in a file.

A case holds no tensor. Its tensors follow from it alone (`strategies.tensors`), the same on every machine.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from strategies.features import FEATURES, VARIATIONS, Role
from strategies.features.seqlens_k import PAST_END
from strategies.geometry import Geometry
from strategies.layouts import LAYOUTS
from strategies.spec import Spec, require, require_known
from strategies.tensor_spec import TensorSpec

DTYPES = ("fp32", "fp16", "bf16")
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
"""The choices for `needs_grad`: q, k and v, or some of them in this order. A feature's tensor may follow."""

MAX_HISTORY = 8


class Features(Spec):
    """The keyword options of a call: one value for each registered feature.

    Read a value as an attribute: `Features(causal=True).causal`. A feature that is not given has its default.
    """

    _values: Mapping[str, Any]
    _asked: dict[str, Any]

    def __init__(self, *values: Any, **named: Any) -> None:
        known = {name: each.default for name, each in FEATURES.items()}
        if len(values) > len(known):
            raise TypeError(f"there are {len(known)} features, not {len(values)}")
        given = dict(zip(known, values, strict=False))
        for name, value in named.items():
            if name not in known or name in given:
                raise TypeError(f"there is no feature {name!r}, or it is given twice; there are {', '.join(known)}")
            given[name] = value
        for name, value in given.items():
            if value != FEATURES[name].default or isinstance(value, bool) != isinstance(FEATURES[name].default, bool):
                FEATURES[name].check_form(value)
        object.__setattr__(self, "_values", known | given)
        asked = {name: value for name, value in self._values.items() if value != FEATURES[name].default}
        object.__setattr__(self, "_asked", asked)

    def __getattr__(self, name: str) -> Any:
        values: Mapping[str, Any] = object.__getattribute__(self, "_values")
        if name not in values:
            raise AttributeError(f"there is no feature {name!r}; there are {', '.join(values)}")
        return values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.asked() == other.asked() if isinstance(other, Features) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.asked().items()))

    def __reduce__(self) -> Any:
        return _features, (self.asked(),)

    def asked(self) -> dict[str, Any]:
        """The values that are not a feature's default, by name."""
        return self._asked

    def replace(self, **changes: Any) -> Features:
        """Return a copy with these values changed (and checked again)."""
        return Features(**(self.asked() | changes))

    def fit(self, geometry: Geometry) -> Features:
        """Return the values adapted to a problem of other sizes."""
        return self.replace(**{name: FEATURES[name].fit(value, geometry) for name, value in self.asked().items()})

    def part(self, places: Mapping[str, slice]) -> Features:
        """Return the values for the part of a problem at these places along B, Hq, Hk, Nq and Nk."""
        return self.replace(**{name: FEATURES[name].part(value, places) for name, value in self.asked().items()})

    def check(self, geometry: Geometry) -> None:
        """Raise ValueError unless every value is legal in a problem of these sizes."""
        for name, value in self.asked().items():
            FEATURES[name].check(value, geometry)

    def roles(self) -> dict[str, Role]:
        """The float tensors that the features bring, by name."""
        found: dict[str, Role] = {}
        for name, value in self.asked().items():
            found |= FEATURES[name].roles(value)
        return found

    @classmethod
    def _hints(cls) -> dict[str, Any]:
        return {name: each.kind for name, each in FEATURES.items()}

    def _non_default(self) -> dict[str, Any]:
        return self.asked()


def _features(values: dict[str, Any]) -> Features:
    return Features(**values)


@dataclass(frozen=True, repr=False)
class AttentionCase(Spec):
    """One attention problem: sizes, dtype, features, one spec per tensor, and the calls before it.

    past_end: what K and V hold at and past `seqlens_k`: the family's "values", or "nan", "inf", "huge".
    history: calls made before this one in the same process, each a named variation of this case, oldest first.
    Only for operation "forward_backward": dO and dLSE, the gradients of O and LSE (dLSE is None if LSE has none), and
    needs_grad, the inputs whose gradients are computed.
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
        self.features.check(self.geometry)
        self._check_layouts()
        self._check_gradients()

    def _check_layouts(self) -> None:
        for role in INPUTS:
            require_known(f"layout of {role}", getattr(self, role).layout, LAYOUTS)

    def _check_gradients(self) -> None:
        if self.needs_grad not in NEEDS:
            self._check_needs_grad()
        if not self.has_gradients:
            bare = (self.dO, self.dLSE, self.needs_grad) == (TensorSpec(), None, INPUTS)
            require(bare, "dO, dLSE and needs_grad belong to operation 'forward_backward', not to 'forward'.")
        has_lse = self.features.return_lse
        require(self.dLSE is None or has_lse, "dLSE needs return_lse=True: without it no gradient comes through LSE.")

    def _check_needs_grad(self) -> None:
        names = self.inputs
        choices = [some for n in range(1, len(names) + 1) for some in itertools.combinations(names, n)]
        sentence = f"needs_grad must be one of {', '.join(map(repr, choices))}, not {self.needs_grad!r}."
        require(self.needs_grad in choices, sentence)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that can have a gradient: q, k, v, and those of features."""
        return (*INPUTS, *(name for name, role in self.features.roles().items() if role.wants_grad))

    @property
    def has_gradients(self) -> bool:
        """Whether the case has a backward pass."""
        return self.operation == "forward_backward"

    @property
    def scale(self) -> float:
        """The effective scale: the case's own, or d^-0.5."""
        return float(self.geometry.d**-0.5 if self.features.scale is None else self.features.scale)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of keys of each batch entry."""
        return self.features.seqlens_k or (self.geometry.Nk,) * self.geometry.B

    def resized(self, **sizes: int) -> AttentionCase:
        """Return the case with other sizes and the feature values adapted to them."""
        geometry = self.geometry.replace(**sizes)
        return self.replace(geometry=geometry, features=self.features.fit(geometry))

    @property
    def work(self) -> int:
        """The number of scores, B·Hq·Nq·Nk."""
        return self.geometry.B * self.geometry.Hq * self.geometry.Nq * self.geometry.Nk
