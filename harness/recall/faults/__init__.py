"""Attention functions to measure the harness with: faults, controls, which are right, and equivalents.

Every module below this one is imported, so that a new fault is one decorated function or one `edit` in any of them.
"""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

from harness.recall.faults.registry import CONTROLS, EQUIVALENTS, FAULTS, Control, Equivalent, Fault  # noqa: E402

__all__ = ["CONTROLS", "EQUIVALENTS", "FAULTS", "Control", "Equivalent", "Fault"]
