"""What the usual checks would find: other suites' rules, as their authors would write them for a function of ours.

All draw contiguous `randn` inputs. Of a subject that declares gradients all but one look at those too, by a contiguous
`randn` dO; of the others they see O alone. Every module below this one is imported, so that a new
baseline is one decorated function in a file of its own.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from harness.recall.baselines.registry import BASELINES, Baseline, baseline  # noqa: E402

__all__ = ["BASELINES", "Baseline", "baseline"]
