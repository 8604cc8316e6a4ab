"""Reads untrusted JSON values strictly: each field is right, or a ValueError says why not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from strategies.spec import require

Read = Callable[[Any], Any]
"""Reads one value; raises ValueError, in one sentence, for a value of another kind."""


def fields(
    what: str, data: object, readers: Mapping[str, Read], optional: Collection[str], dropped: Collection[str] = ()
) -> dict[str, Any]:
    """Read every field with its reader; a field that is missing or not known is a ValueError."""
    given = an_object(what, data)
    for name in given:
        require(name in readers or name in dropped, f"{what} has no field {name!r}.")
    for name in readers:
        require(name in given or name in optional, f"{what} must have the field {name!r}.")
    return {name: read(given[name]) for name, read in readers.items() if name in given}


def an_object(what: str, value: object) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {type(value).__name__}.")
    return value


def text(value: object) -> str:
    """A string."""
    require(isinstance(value, str), f"A text was expected, not {value!r}.")
    return str(value)


def number(value: object) -> float:
    """A number, or "inf", "-inf" or "nan" as text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(is_number or value in ("inf", "-inf", "nan"), f"A number was expected, not {value!r}.")
    return float(value)  # type: ignore[arg-type]


def whole(value: object) -> int:
    """A whole number."""
    if type(value) is not int:
        raise ValueError(f"A whole number was expected, not {value!r}.")
    return value


def count(value: object) -> int:
    """A whole number of at least 0."""
    require(whole(value) >= 0, f"A whole number from 0 on was expected, not {value!r}.")
    return whole(value)


def index(value: object) -> tuple[int, ...]:
    """A list of whole numbers."""
    is_index = isinstance(value, list) and all(type(place) is int for place in value)
    require(is_index, f"A list of whole numbers was expected, not {value!r}.")
    return tuple(value)  # type: ignore[arg-type]


def several(read: Read) -> Read:
    """A list whose items `read` reads; it becomes a tuple."""

    def read_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"A list was expected, not {value!r}.")
        return tuple(read(item) for item in value)

    return read_all


def mapping(read: Read, what: str = "A part of a saved failure") -> Read:
    """An object whose values `read` reads."""
    return lambda value: {name: read(item) for name, item in an_object(what, value).items()}


def maybe(read: Read) -> Read:
    """What `read` reads, or null."""
    return lambda value: None if value is None else read(value)
