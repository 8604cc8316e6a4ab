"""Oracles compute the right answer; budgets bound the allowed error.

Every module in this package is imported, so a new oracle is one decorated function in a file in `oracles/others`.
"""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

from oracles.budget.backward import GradientBudget, gradient_budget  # noqa: E402
from oracles.budget.forward import Budget, forward_budget  # noqa: E402
from oracles.compare import Comparison, compare, error_over_budget  # noqa: E402
from oracles.judgement import Judgement  # noqa: E402
from oracles.registry import ORACLES, Answer, Oracle, oracle  # noqa: E402
from oracles.truth.float64 import Truth, float64  # noqa: E402
from oracles.truth.gradients64 import Gradients, gradients64  # noqa: E402
from oracles.vote import compare_answer, vote  # noqa: E402

__all__ = [
    "ORACLES",
    "Answer",
    "Budget",
    "Comparison",
    "GradientBudget",
    "Gradients",
    "Judgement",
    "Oracle",
    "Truth",
    "compare",
    "compare_answer",
    "error_over_budget",
    "float64",
    "forward_budget",
    "gradient_budget",
    "gradients64",
    "oracle",
    "vote",
]
