"""Features, the keywords of the call, one file each: how a value is drawn, checked, varied, passed and counted.

Every module in this folder is imported, so a new feature is one decorated class in a file of its own.
"""

from importlib import import_module
from pkgutil import iter_modules

from strategies.features.registry import (
    FEATURES,
    ROWS,
    VARIATIONS,
    Axis,
    Declared,
    Feature,
    Role,
    Value,
    feature,
    gradient_of,
)

_COMMON = ("causal", "scale", "seqlens_k", "return_lse", "config")
"""Imported first: features print in the order in which they are registered."""

for _name in (*_COMMON, *(module.name for module in iter_modules(__path__))):
    import_module(f"{__name__}.{_name}")

__all__ = ["FEATURES", "ROWS", "VARIATIONS", "Axis", "Declared", "Feature", "Role", "Value", "feature", "gradient_of"]
