"""The judgement of a problem: its truth and its budget, made in this one place."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from oracles.budget.backward import GradientBudget, gradient_budget
from oracles.budget.forward import Budget, forward_budget
from oracles.compare import Comparison, compare
from oracles.truth.float64 import Truth, float64
from oracles.truth.gradients64 import Gradients, gradients64
from strategies import Problem

OUTPUTS = ("O", "LSE")


class Judgement:
    """Truth and budget by tensor: "O", "LSE", and "dQ", "dK", "dV" of a problem with a dO. Computed on first use.

    p_dtype, independent and dtype describe the answers that are judged, as in `forward_budget`. atol: a tolerance that
    the subject declares, added to every budget.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        p_dtype: torch.dtype | None = None,
        independent: bool = False,
        dtype: torch.dtype | None = None,
        truth_of: Judgement | None = None,
        atol: float = 0.0,
    ) -> None:
        self.problem = problem
        self.p_dtype, self.independent, self.dtype = p_dtype, independent, dtype
        self._truth_of, self._atol = truth_of, atol

    @cached_property
    def truth(self) -> Truth:
        """O and LSE in float64, with the intermediate results that the budget needs."""
        return float64(self.problem) if self._truth_of is None else self._truth_of.truth

    @cached_property
    def gradients(self) -> Gradients:
        """The gradients in float64. Raises ValueError if the problem has no dO."""
        return gradients64(self.problem, self.truth) if self._truth_of is None else self._truth_of.gradients

    @cached_property
    def forward_budget(self) -> Budget:
        """The budget of O and LSE."""
        found = forward_budget(self.problem, self.truth, self.p_dtype, self.independent, self.dtype)
        return found.plus(self._atol)

    @cached_property
    def gradient_budget(self) -> GradientBudget:
        """The budget of the gradients."""
        found = gradient_budget(
            self.problem, self.truth, self.gradients, self.p_dtype, self.independent, self.dtype, self.forward_budget
        )
        return found.plus(self._atol)

    def wanted(self, name: str) -> Tensor:
        """Return the right value of a tensor, in float64."""
        return self.truth.tensors[name] if name in OUTPUTS else self.gradients[name]

    def budget(self, name: str) -> Tensor:
        """Return the allowed error of each element of a tensor, in float64."""
        return self.forward_budget[name] if name in OUTPUTS else self.gradient_budget[name]

    def parts(self, name: str, index: tuple[int, ...]) -> dict[str, float]:
        """Return the parts of the budget of one element of a tensor, by name."""
        return (self.forward_budget if name in OUTPUTS else self.gradient_budget).parts(name, index)

    def compare(self, answer: Mapping[str, Tensor]) -> dict[str, Comparison]:
        """Compare the tensors of an answer with the truth. Raises ValueError for a wrong shape."""
        return {name: compare(got, self.wanted(name), self.budget(name)) for name, got in answer.items()}

    def of_dtype(self, dtype: torch.dtype) -> Judgement:
        """Return the judgement of answers computed, cast and stored in one dtype; itself if it is for that dtype."""
        if self.forward_budget.is_for(dtype):
            return self
        return Judgement(self.problem, dtype=dtype, truth_of=self)
