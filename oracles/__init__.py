"""What the right answer is, by several oracles, and how far from it is allowed.

Every module in this folder is imported, so a new oracle is one decorated function in a file of its own.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

from oracles.budget import Budget, forward_budget  # noqa: E402
from oracles.compare import Comparison, compare, error_over_budget  # noqa: E402
from oracles.float64 import Truth, float64  # noqa: E402
from oracles.gradient_budget import GradientBudget, gradient_budget  # noqa: E402
from oracles.gradients64 import Gradients, gradients64  # noqa: E402
from oracles.registry import ORACLES, Answer, Oracle, oracle  # noqa: E402
from oracles.vote import compared, hold, odd_one_out, vote  # noqa: E402

__all__ = [
    "ORACLES",
    "Answer",
    "Budget",
    "Comparison",
    "GradientBudget",
    "Gradients",
    "Oracle",
    "Truth",
    "compare",
    "compared",
    "error_over_budget",
    "float64",
    "forward_budget",
    "gradient_budget",
    "gradients64",
    "hold",
    "odd_one_out",
    "oracle",
    "vote",
]
