"""The calls that a script makes: those of the case or, where a relation failed, all that the relation makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from harness.attempt import attempt, is_independent
from harness.corpus import Entry
from harness.relations import RELATIONS, hold
from harness.subject import Subject
from harness.verdict import CannotRun
from oracles import Budget, compare, float64, forward_budget
from strategies import AttentionCase, Problem, build, calls_before
from strategies.tensors import memory_of


@dataclass(frozen=True)
class Call:
    """One call: its tensors as they are before it, on the CPU, and its keyword arguments, seqlens_k aside.

    case: what the tensors follow from, where anything. budget: None where nothing is asked of what comes back.
    """

    problem: Problem
    arguments: dict[str, Any]
    case: AttentionCase | None = None
    budget: Budget | None = None

    @property
    def wants_lse(self) -> bool:
        """Whether it asks for LSE."""
        return bool(self.arguments.get("return_lse"))


def calls(entry: Entry, subject: Subject) -> list[Call]:
    """Return the calls that show an entry's failure, in order. Raises CannotRun where no call by itself shows it."""
    if entry.check in RELATIONS:
        return _of_relation(entry, subject)
    earlier = [_of_case(case, subject) for case in calls_before(entry.case)]
    last = _of_case(entry.case, subject)
    budget = _budget(last.problem, subject, is_independent(entry.case))
    return [*earlier, replace(last, budget=budget)]


def _of_case(case: AttentionCase, subject: Subject) -> Call:
    return Call(build(case), subject.arguments(case), case)


def _budget(problem: Problem, subject: Subject, independent: bool) -> Budget:
    return forward_budget(problem, float64(problem), p_dtype=subject.torch_p_dtype(), independent=independent)


def _of_relation(entry: Entry, subject: Subject) -> list[Call]:
    """Run the relation and note its calls: where two differ by more than both budgets, one is beyond its own."""
    recorder = _Recorder(subject, is_independent(entry.case))
    tried = attempt(replace(subject, function=recorder), entry.case, entry.device)
    verdicts = list(hold(tried, [entry.check], others=False))
    if verdicts and verdicts[0].tensor and not recorder.shows_a_fault():
        raise CannotRun(f"Each call that {entry.check} makes is right by itself: replay it, no script shows it.")
    return recorder.made


class _Recorder:
    """A subject's function that notes every call of it."""

    def __init__(self, subject: Subject, independent: bool) -> None:
        self.subject, self.independent = subject, independent
        self.made: list[Call] = []
        self.returned: list[Any] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, seqlens_k: Tensor | None = None, **arguments: Any) -> Any:
        scale = arguments.get("scale", q.shape[-1] ** -0.5)
        lengths = None if seqlens_k is None else seqlens_k.cpu()
        problem = Problem(_kept(q), _kept(k), _kept(v), arguments.get("causal", False), scale, lengths)
        independent = self.independent and not self.made
        self.made.append(Call(problem, arguments, budget=_budget(problem, self.subject, independent)))
        self.returned.append(None)
        given = {} if seqlens_k is None else {"seqlens_k": seqlens_k}
        self.returned[-1] = self.subject.function(q, k, v, **given, **arguments)
        return self.returned[-1]

    def shows_a_fault(self) -> bool:
        """Whether what a call returned is not right, now that all calls are made: it may have changed since."""
        return any(not _is_right(call, found) for call, found in zip(self.made, self.returned, strict=True))


def _is_right(call: Call, returned: Any) -> bool:
    assert call.budget is not None
    O, LSE = returned if isinstance(returned, tuple) else (returned, None)
    truth = float64(call.problem)
    is_right = compare(O, truth.O, call.budget.O).ok
    return is_right and (LSE is None or compare(LSE, truth.LSE, call.budget.LSE).ok)


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU of a tensor and of all the memory that it lies in."""
    return memory_of(tensor).cpu().clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
