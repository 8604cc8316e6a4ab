"""An attempt: one subject, one case, the result, and its judgement, computed on first use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from harness.running.call import Result, call
from harness.running.devices import judging_device
from harness.running.memory import zero_outside
from harness.subject.declaration import Subject
from oracles import Budget, Comparison, Judgement, Truth
from oracles.features import broken_premises
from strategies import AttentionCase, Problem, build


@dataclass(frozen=True)
class Attempt:
    """The input of the checks: the `result` of `subject` on the tensors of `problem`, made from `case`.

    elsewhere: the same tensors on the device that judges; None if that is the device that ran the call.
    """

    subject: Subject
    case: AttentionCase
    problem: Problem
    result: Result
    elsewhere: Problem | None = None

    @cached_property
    def judgement(self) -> Judgement:
        """The truth and the budget, from tensors that the subject cannot have changed."""
        independent = is_independent(self.case)
        subject = self.subject
        return Judgement(self.pristine, p_dtype=subject.torch_p_dtype(), independent=independent, atol=subject.atol)

    @property
    def truth(self) -> Truth:
        """O and LSE in float64."""
        return self.judgement.truth

    @property
    def budget(self) -> Budget:
        """How far from the truth each element of O and LSE may be."""
        return self.judgement.forward_budget

    @cached_property
    def compared(self) -> dict[str, Comparison]:
        """O, LSE and the gradients that came back, compared with the truth; the result must have the right form."""
        return self._compare(self.result)

    @cached_property
    def broken_premises(self) -> frozenset[str]:
        """The premises of relations that a feature of the case breaks."""
        return broken_premises(self.case.features)

    @cached_property
    def pristine(self) -> Problem:
        """The tensors as they were before the call, on the device that judges."""
        if self.elsewhere is not None:
            return self.elsewhere
        if not (self.result.mutated or self.result.overrun):
            return self.problem
        return build(self.case, self.device)

    @property
    def device(self) -> str:
        """The device on which the subject ran."""
        return self.problem.q.device.type

    @cached_property
    def is_right_with_zero_guards(self) -> bool:
        """Whether the result is right if the memory around and between the tensors' rows holds 0 instead of NaN.

        If so, the error came from a read outside a tensor.
        """
        return self._is_right_with_zeros_around(self.pristine.tensors)

    @cached_property
    def read_outside(self) -> tuple[str, ...]:
        """The tensors of the case outside of which the call reads: with NaN around that one alone, it is wrong.

        Empty where it reads outside a tensor that it made itself. Only for a result that is right with zero guards.
        """
        names = list(self.pristine.tensors)
        return tuple(
            name for name in names if not self._is_right_with_zeros_around([other for other in names if other != name])
        )

    def _is_right_with_zeros_around(self, names: Iterable[str]) -> bool:
        """Whether the call is right if the memory around these tensors and around those that it makes holds 0."""
        before = self.pristine
        zeroed = {name: zero_outside(before.tensors[name]) for name in names}
        return self._is_right(call(self.subject, self.case, before.with_tensors(zeroed).to(self.device), band=0))

    @cached_property
    def is_right_with_zero_lanes(self) -> bool:
        """Whether the result is right if the masked lanes of a `tl.load` without `other` hold 0.

        If so, the error came from such a lane, which is undefined on a GPU.
        """
        if not self.result.lanes_undefined:
            return False
        return self._is_right(call(self.subject, self.case, build(self.case, self.device), zero_lanes=True))

    def copy_outputs(self) -> tuple[Tensor, Tensor | None]:
        """Copy O, and LSE if it came back, as they are now, to the device that judges."""
        O, LSE = self.result.output, self.result.lse
        place = self.pristine.q.device
        return O.to(place, copy=True), None if LSE is None else LSE.to(place, copy=True)

    def copy_gradients(self) -> dict[str, Tensor]:
        """Copy the gradients that came back, as they are now, to the device that judges."""
        place = self.pristine.q.device
        return {name: tensor.to(place, copy=True) for name, tensor in self.result.found_gradients.items()}

    def _is_right(self, result: Result) -> bool:
        return result.raised is None and all(found.ok for found in self._compare(result).values())

    def _compare(self, result: Result) -> dict[str, Comparison]:
        tensors = result.tensors
        formed = {name: got for name, got in tensors.items() if got.shape == self.judgement.wanted(name).shape}
        return self.judgement.compare(formed if result.gradients else tensors)


def attempt(subject: Subject, case: AttentionCase, device: str) -> Attempt:
    """Build the tensors and call the subject. Raises Refused if it refuses."""
    made = build(case)
    problem = made.to(device)
    is_elsewhere = judging_device(case, device) != device
    return Attempt(subject, case, problem, call(subject, case, problem), made if is_elsewhere else None)


def is_independent(case: AttentionCase) -> bool:
    """Whether all values are drawn independently and continuously, so that the sharper budget holds.

    It is False if a feature breaks that premise (a small scale makes the weights equal, and equal weights round alike),
    and for expanded tensors, whose rows are equal. In a case with a backward, dO counts too.
    """
    specs = (case.q, case.k, case.v, *([case.dO] if case.has_gradients else []))
    plain = all(spec.values == "normal" and not spec.layout.startswith("expanded") for spec in specs)
    return plain and "independent" not in broken_premises(case.features)
