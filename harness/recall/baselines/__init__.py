"""Baselines: the rules of other test suites, applied to a planted function, to compare recall with.

All draw contiguous `randn` inputs. All but one also check gradients, by a contiguous `randn` dO, where the subject
declares them. Every module below this one is imported, so that a new baseline is one decorated function in a file of
its own.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from harness.recall.baselines.registry import BASELINES, Baseline, baseline  # noqa: E402

__all__ = ["BASELINES", "Baseline", "baseline"]
