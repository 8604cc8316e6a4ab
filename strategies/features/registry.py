"""What a feature is: one keyword of the call, and all that cases need to know of it.

A feature is one subclass of `Feature` in a file of its own in this folder, and its meaning one file of the same name
in `oracles/features`. Whatever handles cases loops over `FEATURES`; nothing else names a feature.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from strategies.drawing import Draw
from strategies.geometry import Geometry
from strategies.spec import require
from strategies.tensor_spec import TensorSpec

Value = Any
"""A feature's value: plain, hashable and what `repr` and JSON can carry (a number, a string, a tuple, a Spec)."""

Variations = Mapping[str, Callable[[Value, Geometry], Value]]
"""Changes of a value, by the name of the variation that they make."""


class Declared(Protocol):
    """What a feature may ask of a subject: `harness.subject` says what each means."""

    @property
    def keywords(self) -> frozenset[str]:
        """The feature keywords in its signature."""

    @property
    def alignments(self) -> tuple[str, ...]:
        """The alignments of a causal mask that it takes."""

    @property
    def configs(self) -> tuple[str, ...]:
        """The names of its tile configurations."""


@dataclass(frozen=True)
class Axis:
    """One way to class cases: the classes that a subject can be asked for, and those that a case falls into.

    has_histogram: error/budget is counted by its classes too.
    """

    name: str
    possible: Callable[[Any], Iterable[str]]
    of: Callable[[Any], Iterable[str]]
    has_histogram: bool = False


ROWS = ("every key", "end hidden", "start hidden", "both ends hidden", "keys between hidden", "no key")
"""What a row of a case may see."""


@dataclass(frozen=True)
class Role:
    """A float tensor that a feature brings, by the axes it has.

    axes: "B", "Hq", "Hk", "Nq" and "Nk" in the tensor's order, "1" where it is broadcast. wants_grad: its gradient may
    be asked for, as `d` and its name ("bias" has "dBias").
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
    """One keyword of the call. A subclass overrides what is not as here; see `causal.py` for one of 40 lines.

    default: the value that asks for nothing; the keyword is then left out of the call.
    kind: the type of a value that is a Spec, which JSON must be read into.
    needs_geometry: its value is drawn after the sizes, which it is handed.
    is_common: drawn in most cases, by weights of its own; other features are drawn a few at a time.
    variations: calls that may come before a case, by name, each a change of the value.
    anything: what is asked, as `draw` takes it, where nothing narrows it.
    """

    name: ClassVar[str]
    default: ClassVar[Value] = None
    kind: ClassVar[Any] = Any
    needs_geometry: ClassVar[bool] = False
    is_common: ClassVar[bool] = False
    variations: ClassVar[Variations] = {}
    anything: ClassVar[Any] = True

    def taken_by(self, subject: Declared) -> Any:
        """What may be asked of a subject, as `draw` takes it; anything false leaves the feature out."""
        return self.name in subject.keywords

    def narrow(self, asked: Any) -> Any:
        """What `attention_cases(NAME=asked)` means, as `draw` takes it. Raises ValueError for what it cannot be."""
        require(isinstance(asked, bool), f"{self.name} must be True or False, not {asked!r}.")
        return asked

    def draw(self, draw: Draw, asked: Any, geometry: Geometry | None) -> Value:
        """Draw a value. geometry: None unless `needs_geometry`."""
        raise NotImplementedError(f"The feature {self.name!r} does not say how its value is drawn.")

    def box(self, asked: Any, geometry: Geometry) -> Iterable[Value]:
        """The values that an exhaustive test of small problems, of one batch entry, goes through."""
        return (self.default,)

    def check(self, value: Value, geometry: Geometry) -> None:
        """Raise ValueError unless the value, which is not the default, is legal in a problem of these sizes."""

    def check_form(self, value: Value) -> None:
        """Raise ValueError unless the value could be legal in some problem."""

    def fit(self, value: Value, geometry: Geometry) -> Value:
        """The value that stands for this one in a problem of other sizes, where it would not be legal as it is."""
        return value

    def part(self, value: Value, places: Mapping[str, slice]) -> Value:
        """The value for the part of a problem at these places along B, Hq, Hk, Nq and Nk."""
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
        """The value that a call with these arguments asks for."""
        return arguments.get(self.name, self.default)

    def hides(self, subject: Declared) -> Iterable[str]:
        """Which classes of `ROWS` the feature adds to those that a subject's cases may have."""
        return ()

    def axes(self) -> tuple[Axis, ...]:
        """How coverage classes cases by this feature."""
        return (Axis(self.name, self._possible, lambda case: ["on" if self.is_on(case.features) else "off"]),)

    def is_on(self, features: Any) -> bool:
        """Whether these features ask for it."""
        return bool(getattr(features, self.name) != self.default)

    def _possible(self, subject: Declared) -> Iterable[str]:
        return ("off", "on") if self.taken_by(subject) else ()


FEATURES: dict[str, Feature] = {}
"""The features by name, in the order in which they print."""

VARIATIONS: dict[str, Callable[[Any], Any]] = {}
"""Calls that may come before a case, by name: each makes another case of it. `strategies.history` has the rest."""

F = TypeVar("F", bound=type[Feature])


def feature(kind: F) -> F:
    """Register a feature under its name. Raises ValueError where the name is taken or no keyword."""
    name = kind.name
    require(bool(re.fullmatch(r"[a-z][a-z0-9_]*", name)), f"A feature's name is a keyword, not {name!r}.")
    require(name not in FEATURES, f"A feature is already named {name!r}; give this one another name.")
    FEATURES[name] = kind()
    for variation, change in kind.variations.items():
        VARIATIONS[variation] = _of_case(name, change)
    return kind


def _of_case(name: str, change: Callable[[Value, Geometry], Value]) -> Callable[[Any], Any]:
    def varied(case: Any) -> Any:
        value = change(getattr(case.features, name), case.geometry)
        return case.replace(features=case.features.replace(**{name: value}))

    return varied


def gradient_of(tensor: str) -> str:
    """What the gradient of an input is called: "dQ" of q, "dBias" of bias."""
    return f"d{tensor.capitalize()}"
