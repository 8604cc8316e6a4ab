"""Checks of a call's result, in one file each, imported here so that they register themselves."""

import importlib
import pkgutil

from harness.judging.checks.registry import CHECKS, Check, Stage, check, run_checks

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["CHECKS", "Check", "Stage", "check", "run_checks"]
