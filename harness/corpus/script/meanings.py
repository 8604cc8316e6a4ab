"""The meanings of a script's features as code: the torch functions of `oracles/features`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Collection
from typing import Any

from oracles.features import MEANINGS, Mask, Pairs, Score


def source(features: Collection[str]) -> str:
    """Return the code of `Pairs`, the meanings of these features, and the tables MASKS and SCORES."""
    found = [MEANINGS[name] for name in features if name in MEANINGS]
    masks = {each.name: f"{each.name}_visible" for each in found if isinstance(each, Mask)}
    scores = {each.name: f"{each.name}_score" for each in found if isinstance(each, Score)}
    functions = [_rename(MEANINGS[name].visible, named) for name, named in masks.items()]  # type: ignore[attr-defined]
    functions += [_rename(MEANINGS[name].score, named) for name, named in scores.items()]  # type: ignore[attr-defined]
    tables = f"MASKS = {_table(masks)}\nSCORES = {_table(scores)}"
    return "\n\n\n".join([inspect.getsource(Pairs).rstrip(), *functions, tables])


def _rename(function: Callable[..., Any], name: str) -> str:
    text = textwrap.dedent(inspect.getsource(function)).replace("@staticmethod\n", "").rstrip()
    return re.sub(rf"^def {function.__name__}\(", f"def {name}(", text, flags=re.MULTILINE)


def _table(functions: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {function}' for name, function in functions.items()) + "}"
