"""The base of every part of a case: frozen, compact to print, strict to read."""

from __future__ import annotations

import dataclasses
from typing import Any, Self, get_args, get_type_hints


class Spec:
    """Base of the frozen dataclasses that make up a case.

    A spec's repr evaluates back to it. Repr and JSON leave out fields that have their default, so that a new field
    with a default changes neither the printed form nor the files of older cases.
    """

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in self._non_default().items())
        return f"{type(self).__name__}({', '.join(shown)})"

    def _non_default(self) -> dict[str, Any]:
        """Return the fields that do not have their default, by name."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != _default(f)}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with these fields changed (and checked again)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; fields that have their default are left out."""
        return {name: _plain(value) for name, value in self._non_default().items()}

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Read what `to_json` wrote. Raises ValueError for an unknown field and for a value that is not legal."""
        if not isinstance(data, dict):
            raise ValueError(f"{cls.__name__} must be a JSON object, not {type(data).__name__}.")
        hints = cls._hints()
        if unknown := sorted(set(data) - set(hints)):
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; its fields are {', '.join(sorted(hints))}.")
        values = {name: _read(hints[name], value) for name, value in data.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{cls.__name__} cannot be made of these fields: {error}.") from None

    @classmethod
    def _hints(cls) -> dict[str, Any]:
        """The type of each field, by name."""
        hints = get_type_hints(cls)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: object) -> object:
    if isinstance(value, Spec):
        return value.to_json()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _read(hint: Any, value: object) -> object:
    kinds = get_args(hint) or (hint,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Spec) and not (value is None and type(None) in kinds):
            return kind.from_json(value)
    return _without_lists(value)


def _without_lists(value: object) -> object:
    return tuple(map(_without_lists, value)) if isinstance(value, list) else value


def require(condition: bool, sentence: str) -> None:
    """Raise ValueError with this sentence unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless the value is a whole number (no bool) from low to high."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    require(is_int and low <= value <= high, f"{name} must be a whole number from {low} to {high}, not {value!r}.")  # type: ignore[operator]


def require_known(what: str, name: object, known: object) -> None:
    """Raise ValueError unless the name is one of those known."""
    names = list(known)  # type: ignore[call-overload]
    require(isinstance(name, str) and name in names, f"{what} must be one of {', '.join(names)}, not {name!r}.")
