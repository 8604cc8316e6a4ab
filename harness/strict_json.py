"""JSON as a stranger may have written it, read strictly: one meaning or a ValueError in one sentence."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from strategies.spec import require

Read = Callable[[Any], Any]


def parse(content: bytes) -> object:
    """Parse UTF-8 JSON. Raises ValueError for NaN and Infinity, numbers past float64's, and a key that stands twice.

    Raises RecursionError where it is nested too deeply.
    """
    data: object = json.loads(
        content.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_twins
    )
    json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair would fail later, when it is printed
    return data


def read_fields(
    what: str, data: object, readers: Mapping[str, Read], optional: set[str], dropped: set[str] | None = None
) -> dict[str, Any]:
    """Read every field with its reader; a field that is missing or not known is a ValueError."""
    given = read_object(what, data)
    for name in given:
        require(name in readers or name in (dropped or ()), f"{what} has no field {name!r}.")
    for name in readers:
        require(name in given or name in optional, f"{what} must have the field {name!r}.")
    return {name: read(given[name]) for name, read in readers.items() if name in given}


def read_object(what: str, value: object) -> dict[str, Any]:
    """Return the value, which must be an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {type(value).__name__}.")
    return value


def read_text(value: object) -> str:
    """Return the value, which must be a text."""
    require(isinstance(value, str), f"A text was expected, not {value!r}.")
    return str(value)


def read_number(value: object) -> float:
    """Return a number, or "inf", "-inf" or "nan", as a float. Raises OverflowError for a whole one too large."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(is_number or value in ("inf", "-inf", "nan"), f"A number was expected, not {value!r}.")
    return float(value)  # type: ignore[arg-type]


def read_index(value: object) -> tuple[int, ...]:
    """Return a list of whole numbers as a tuple."""
    is_index = isinstance(value, list) and all(type(place) is int for place in value)
    require(is_index, f"A list of whole numbers was expected, not {value!r}.")
    return tuple(value)  # type: ignore[arg-type]


def read_mapping(read: Read) -> Read:
    """Return a reader of objects whose values are all read with `read`."""
    return lambda value: {name: read(item) for name, item in read_object("A part of a saved failure", value).items()}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    require(math.isfinite(number), f"The number {text[:40]} is larger than any float64.")
    return number


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"The key {twin!r} stands twice.")
    return found
