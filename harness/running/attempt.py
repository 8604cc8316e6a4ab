"""An attempt: one subject, one case, what came back, and (made when first asked for) what is right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from harness.running.backward import GRADIENTS
from harness.running.call import Result, call
from harness.running.devices import judged_on
from harness.running.memory import zero_beside
from harness.subject.declaration import Subject
from oracles import (
    Budget,
    Comparison,
    GradientBudget,
    Gradients,
    Truth,
    compare,
    float64,
    forward_budget,
    gradient_budget,
    gradients64,
)
from strategies import AttentionCase, Problem, build


@dataclass(frozen=True)
class Attempt:
    """What the checks look at. `result` came of `subject` on the tensors of `problem`, made from `case`.

    elsewhere: the same tensors on another device, where the result is judged; None where it is judged where it ran.
    """

    subject: Subject
    case: AttentionCase
    problem: Problem
    result: Result
    elsewhere: Problem | None = None

    @cached_property
    def truth(self) -> Truth:
        """O, LSE and what the budget needs, in float64, from tensors made anew: a subject cannot touch them."""
        return float64(self.pristine)

    @cached_property
    def budget(self) -> Budget:
        """How far from the truth each element of O and LSE may be."""
        p_dtype = self.subject.torch_p_dtype()
        return forward_budget(self.pristine, self.truth, p_dtype=p_dtype, independent=is_independent(self.case))

    @cached_property
    def true_gradients(self) -> Gradients:
        """dQ, dK and dV in float64, of a case with a backward."""
        return gradients64(self.pristine, self.truth)

    @cached_property
    def gradient_budget(self) -> GradientBudget:
        """How far from these each element of a gradient may be."""
        p_dtype, independent = self.subject.torch_p_dtype(), is_independent(self.case)
        return gradient_budget(self.pristine, self.truth, self.true_gradients, p_dtype=p_dtype, independent=independent)

    @cached_property
    def compared(self) -> dict[str, Comparison]:
        """O, LSE and the gradients, as far as they came, held against the truth: for results of the right form."""
        return self._compare(self.result)

    @cached_property
    def pristine(self) -> Problem:
        """The tensors as they were before the call, where the result is judged."""
        if self.elsewhere is not None:
            return self.elsewhere
        if not (self.result.mutated or self.result.overrun):
            return self.problem
        return build(self.case, self.device)

    @property
    def device(self) -> str:
        """Where the subject ran."""
        return self.problem.q.device.type

    @cached_property
    def is_right_among_zeros(self) -> bool:
        """Whether the call's numbers are right once 0, and no NaN, stands beside and between the tensors' rows.

        What is wrong otherwise then comes of a read outside a tensor.
        """
        before = self.pristine
        among_zeros: dict[str, Any] = {name: zero_beside(tensor) for name, tensor in before.tensors.items()}
        result = call(self.subject, self.case, replace(before, **among_zeros).to(self.device), band=0)
        return result.raised is None and all(found.ok for found in self._compare(result).values())

    def copied(self) -> tuple[Tensor, Tensor | None]:
        """O, and LSE where it came back, as they are now, copied to where they are judged."""
        O, LSE = self.result.output, self.result.lse
        place = self.pristine.q.device
        return O.to(place, copy=True), None if LSE is None else LSE.to(place, copy=True)

    def copied_gradients(self) -> dict[str, Tensor]:
        """The gradients that came, as they are now, copied to where they are judged."""
        place = self.pristine.q.device
        return {name: tensor.to(place, copy=True) for name, tensor in came(self.result).items()}

    def _compare(self, result: Result) -> dict[str, Comparison]:
        compared = {"O": compare(result.output, self.truth.O, self.budget.O)}
        if result.lse is not None:
            compared["LSE"] = compare(result.lse, self.truth.LSE, self.budget.LSE)
        for name, gradient in came(result).items():
            wanted, budget = (getattr(of, name) for of in (self.true_gradients, self.gradient_budget))
            if gradient.shape == wanted.shape:
                compared[name] = compare(gradient, wanted, budget)
        return compared


def attempt(subject: Subject, case: AttentionCase, device: str) -> Attempt:
    """Build the tensors and call the subject. Raises Refused where it refuses."""
    made = build(case)
    problem = made.to(device)
    is_elsewhere = judged_on(case, device) != device
    return Attempt(subject, case, problem, call(subject, case, problem), made if is_elsewhere else None)


def came(result: Result) -> dict[str, Tensor]:
    """The gradients that came, by name, in the order of GRADIENTS."""
    found = result.gradients or {}
    return {name: tensor for name in GRADIENTS.values() if (tensor := found.get(name)) is not None}


def is_independent(case: AttentionCase) -> bool:
    """Whether all values are drawn independently and continuously, so that the sharper budget holds.

    Not with a scale of the case's own (a small one makes the weights equal, and equal weights round alike), nor with
    expanded tensors, whose rows are equal. Of a case with a backward that goes for dO too.
    """
    specs = (case.q, case.k, case.v, *([case.dO] if case.has_gradients else []))
    plain = all(spec.values == "normal" and not spec.layout.startswith("expanded") for spec in specs)
    return plain and case.features.scale is None
