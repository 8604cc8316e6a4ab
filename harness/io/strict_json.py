"""Parses untrusted JSON strictly: text with one meaning, or a ValueError in one sentence."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from strategies.spec import require


def parse(content: bytes) -> object:
    """Parse UTF-8 JSON. Raises ValueError for NaN and Infinity, numbers past float64's, and a repeated key.

    Raises RecursionError where it is nested too deeply.
    """
    data: object = json.loads(
        content.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_without_repeated_keys
    )
    json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair would fail later, when it is printed
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    require(math.isfinite(number), f"The number {text[:40]} is larger than any float64.")
    return number


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twin, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"The key {twin!r} stands twice.")
    return found
