"""The meaning of each feature, one file each under its name in `strategies/features`.

Every module in this folder is imported, so a new meaning is one decorated class in a file of its own.
"""

from importlib import import_module
from pkgutil import iter_modules

from oracles.features.registry import (
    MEANINGS,
    PREMISES,
    Array,
    Mask,
    Meaning,
    Pairs,
    Row,
    Score,
    broken_premises,
    links,
    masks,
    meaning,
    pairs_of,
    visible,
    visible_keys,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MEANINGS",
    "PREMISES",
    "Array",
    "Mask",
    "Meaning",
    "Pairs",
    "Row",
    "Score",
    "broken_premises",
    "links",
    "masks",
    "meaning",
    "pairs_of",
    "visible",
    "visible_keys",
]
