"""The `Feature` interface: one keyword of the call, and all that cases need to know about it.

A feature is one subclass of `Feature` in a file of its own in this folder, and its meaning one file of the same name
in `oracles/features`. Code that handles cases loops over `FEATURES` and names no feature itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from strategies.drawing import Draw
from strategies.geometry import Geometry
from strategies.limits import Limits
from strategies.spec import require
from strategies.tensor_spec import TensorSpec

Value = Any
"""A feature's value: plain, hashable, and fit for `repr` and JSON (a number, a string, a tuple, a Spec)."""

Variations = Mapping[str, Callable[[Value, Geometry], Value]]
"""Changes of a value, by the name of the variation."""


class Declared(Protocol):
    """What a feature may read of a subject's declaration: `harness.subject` documents each field."""

    @property
    def keywords(self) -> frozenset[str]:
        """The feature keywords in its signature."""

    @property
    def alignments(self) -> tuple[str, ...]:
        """The alignments of a causal mask that it takes."""

    @property
    def configs(self) -> tuple[str, ...]:
        """The names of its tile configurations."""

    @property
    def limits(self) -> Limits:
        """What its cases are confined to."""


@dataclass(frozen=True)
class Axis:
    """One way to classify cases: the classes possible for a subject, and those that a case falls into.

    has_histogram: error/budget is counted by its classes too.
    """

    name: str
    possible: Callable[[Any], Iterable[str]]
    of: Callable[[Any], Iterable[str]]
    has_histogram: bool = False


ROWS = ("every key", "end hidden", "start hidden", "both ends hidden", "keys between hidden", "no key")
"""The kinds of rows, by the keys that they see."""


@dataclass(frozen=True)
class Role:
    """A float tensor that a feature brings, by the axes it has.

    axes: "B", "Hq", "Hk", "Nq" and "Nk" in the tensor's order, "1" where it is broadcast. wants_grad: a case may need
    its gradient, which is named `d` and its name ("bias" has "dBias").
    """

    axes: tuple[str, ...]
    spec: TensorSpec
    dtype: str = "fp32"
    wants_grad: bool = False

    def shape(self, geometry: Geometry) -> tuple[int, ...]:
        """The tensor's shape in a problem of these sizes."""
        return tuple(1 if axis == "1" else int(getattr(geometry, axis)) for axis in self.axes)

    def part(self, tensor: Tensor, places: Mapping[str, slice]) -> Tensor:
        """The part of the tensor that belongs to these places along B, Hq, Hk, Nq and Nk."""
        return tensor[tuple(places.get(axis, slice(None)) for axis in self.axes)]


class Feature:
    """One keyword of the call. A subclass overrides what differs from here; see `causal.py` for an example.

    default: the value that leaves the keyword out of the call.
    kind: the type of a value that is a Spec, which JSON is read into.
    needs_geometry: the value is drawn after the sizes, which `draw` then gets.
    is_common: drawn in most cases, by its own weights; of the other features, a few are drawn at a time.
    variations: possible earlier calls, by name, each a change of the value.
    anything: the unrestricted choice, in the form that `draw` takes.
    """

    name: ClassVar[str]
    default: ClassVar[Value] = None
    kind: ClassVar[Any] = Any
    needs_geometry: ClassVar[bool] = False
    is_common: ClassVar[bool] = False
    variations: ClassVar[Variations] = {}
    anything: ClassVar[Any] = True

    def taken_by(self, subject: Declared) -> Any:
        """Return what the subject supports, in the form that `draw` takes; a false value leaves the feature out."""
        return self.name in subject.keywords

    def narrow(self, asked: Any) -> Any:
        """Turn `attention_cases(NAME=asked)` into the form that `draw` takes. Raises ValueError if it is invalid."""
        require(isinstance(asked, bool), f"{self.name} must be True or False, not {asked!r}.")
        return asked

    def draw(self, draw: Draw, asked: Any, geometry: Geometry | None) -> Value:
        """Draw a value. geometry: None unless `needs_geometry`."""
        raise NotImplementedError(f"The feature {self.name!r} does not say how its value is drawn.")

    def box(self, asked: Any, geometry: Geometry) -> Iterable[Value]:
        """Return the values for an exhaustive test of small problems with one batch entry."""
        return (self.default,)

    def check(self, value: Value, geometry: Geometry) -> None:
        """Raise ValueError unless the value, which is not the default, is legal in a problem of these sizes."""

    def check_form(self, value: Value) -> None:
        """Raise ValueError unless the value could be legal in some problem."""

    def fit(self, value: Value, geometry: Geometry) -> Value:
        """Return the value adapted to a problem of other sizes, in which it may not be legal as it is."""
        return value

    def part(self, value: Value, places: Mapping[str, slice]) -> Value:
        """Return the value for the part of a problem at these places along B, Hq, Hk, Nq and Nk."""
        return value

    def roles(self, value: Value) -> Mapping[str, Role]:
        """The float tensors that the value brings, by name."""
        return {}

    def tensors(self, value: Value) -> Mapping[str, Tensor]:
        """Other tensors that the value brings, on the CPU, by name: whole numbers and booleans."""
        return {}

    def arguments(self, value: Value, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The keyword arguments of the call; tensors: all that the features bring, by name."""
        return {self.name: tensors.get(self.name, value)}

    def of_arguments(self, arguments: Mapping[str, Any]) -> Value:
        """Return the value in a call with these arguments."""
        return arguments.get(self.name, self.default)

    def hides(self, subject: Declared) -> Iterable[str]:
        """Return the kinds of `ROWS` that the feature makes possible for a subject."""
        return ()

    def axes(self) -> tuple[Axis, ...]:
        """Return how coverage classifies cases by this feature."""
        return (Axis(self.name, self._possible, lambda case: ["on" if self.is_on(case.features) else "off"]),)

    def is_on(self, features: Any) -> bool:
        """Whether it is set in these features."""
        return bool(getattr(features, self.name) != self.default)

    def _possible(self, subject: Declared) -> Iterable[str]:
        return ("off", "on") if self.taken_by(subject) else ()


FEATURES: dict[str, Feature] = {}
"""The features by name, in the order in which they print."""

VARIATIONS: dict[str, Callable[[Any], Any]] = {}
"""Possible earlier calls of a case, by name: each turns it into another case. `strategies.history` has the rest."""

F = TypeVar("F", bound=type[Feature])


def feature(kind: F) -> F:
    """Register a feature under its name. Raises ValueError if the name is taken or is not a keyword."""
    name = kind.name
    require(bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)), f"A feature's name is a keyword, not {name!r}.")
    require(name not in FEATURES, f"A feature is already named {name!r}; give this one another name.")
    FEATURES[name] = kind()
    for variation, change in kind.variations.items():
        VARIATIONS[variation] = _of_case(name, change)
    return kind


def _of_case(name: str, change: Callable[[Value, Geometry], Value]) -> Callable[[Any], Any]:
    def vary(case: Any) -> Any:
        value = change(getattr(case.features, name), case.geometry)
        return case.replace(features=case.features.replace(**{name: value}))

    return vary


def gradient_of(tensor: str) -> str:
    """Return the name of an input's gradient: "dQ" for q, "dBias" for bias."""
    return f"d{tensor.capitalize()}"
