"""What the harness looks at after a call: one check a file, imported here so that each registers itself."""

import importlib
import pkgutil

from harness.judging.checks.registry import CHECKS, Check, Stage, check, look

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["CHECKS", "Check", "Stage", "check", "look"]
