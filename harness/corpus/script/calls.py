"""The calls that a script makes: those of the case or, where a relation failed, all that the relation makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from harness.corpus.entries import Entry
from harness.errors import CannotRun
from harness.judging.relations import RELATIONS, hold
from harness.running.attempt import attempt, is_independent
from harness.running.backward import GRADIENTS
from harness.subject.declaration import Subject
from oracles import (
    Budget,
    GradientBudget,
    compare,
    float64,
    forward_budget,
    gradient_budget,
    gradients64,
)
from strategies import AttentionCase, Problem, build, calls_before
from strategies.tensors import memory_of


@dataclass(frozen=True)
class Call:
    """One call: its tensors as they are before it, on the CPU, and its keyword arguments, seqlens_k aside.

    case: what the tensors follow from, where anything. budget, gradient_budget: None where nothing is asked of what
    comes back, or of its gradients. There is a backward where the problem has a dO.
    """

    problem: Problem
    arguments: dict[str, Any]
    case: AttentionCase | None = None
    budget: Budget | None = None
    gradient_budget: GradientBudget | None = None

    @property
    def wants_lse(self) -> bool:
        """Whether it asks for LSE."""
        return bool(self.arguments.get("return_lse"))

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of its tensors."""
        return tuple(self.problem.tensors)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The names of the gradients that its backward is asked for."""
        return tuple(GRADIENTS[role] for role in self.problem.needs_grad)

    def held(self, subject: Subject, independent: bool) -> Call:
        """The call with its budgets."""
        problem, truth = self.problem, float64(self.problem)
        how: dict[str, Any] = {"p_dtype": subject.torch_p_dtype(), "independent": independent}
        budget = forward_budget(problem, truth, **how)
        if problem.dO is None:
            return replace(self, budget=budget)
        of_gradients = gradient_budget(problem, truth, gradients64(problem, truth), **how)
        return replace(self, budget=budget, gradient_budget=of_gradients)


def calls(entry: Entry, subject: Subject) -> list[Call]:
    """Return the calls that show an entry's failure, in order. Raises CannotRun where no call by itself shows it."""
    if entry.check in RELATIONS:
        return _of_relation(entry, subject)
    earlier = [_of_case(case, subject) for case in calls_before(entry.case)]
    return [*earlier, _of_case(entry.case, subject).held(subject, is_independent(entry.case))]


def _of_case(case: AttentionCase, subject: Subject) -> Call:
    return Call(build(case), subject.arguments(case), case)


def _of_relation(entry: Entry, subject: Subject) -> list[Call]:
    """Run the relation and note its calls: where two differ by more than both budgets, one is beyond its own."""
    recorder = _Recorder(subject)
    tried = attempt(replace(subject, function=recorder), entry.case, entry.device)
    verdicts = list(hold(tried, [entry.check], others=False))
    independent = is_independent(entry.case)
    made = [call.held(subject, independent and i == 0) for i, call in enumerate(recorder.calls)]
    is_shown = any(not _is_right(call, found) for call, found in zip(made, recorder.made, strict=True))
    if verdicts and verdicts[0].tensor and not is_shown:
        raise CannotRun(f"Each call that {entry.check} makes is right by itself: replay it, no script shows it.")
    return made


@dataclass
class _Made:
    """A call as far as it has come: what it returned, and what its backward was given and gave, by name."""

    call: Call
    returned: Any = None
    given: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


class _Recorder:
    """A subject's function that notes every call of it, and every backward."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.made: list[_Made] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, seqlens_k: Tensor | None = None, **arguments: Any) -> Any:
        scale = arguments.get("scale", q.shape[-1] ** -0.5)
        lengths = None if seqlens_k is None else seqlens_k.cpu()
        problem = Problem(_kept(q), _kept(k), _kept(v), arguments.get("causal", False), scale, lengths)
        made = _Made(Call(problem, arguments))
        self.made.append(made)
        inputs = {"q": q, "k": k, "v": v}
        for role, tensor in inputs.items():
            if tensor.requires_grad:
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    _noting(made.gradients, GRADIENTS[role], lambda gradient: gradient)
                )
        given = {} if seqlens_k is None else {"seqlens_k": seqlens_k}
        returned = self.subject.function(q, k, v, **given, **arguments)
        for name, output in zip(("dO", "dLSE"), returned if isinstance(returned, tuple) else (returned,), strict=False):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(_noting(made.given, name, _kept))  # type: ignore[no-untyped-call]
        made.returned = returned
        return returned

    @property
    def calls(self) -> list[Call]:
        """The calls, now that all of them are made."""
        return [_whole(made) for made in self.made]


def _noting(notes: dict[str, Tensor], name: str, keep: Callable[[Tensor], Tensor]) -> Callable[[Tensor | None], None]:
    def note(gradient: Tensor | None) -> None:
        if gradient is not None:
            notes[name] = keep(gradient)

    return note


def _whole(made: _Made) -> Call:
    if "dO" not in made.given:
        return made.call
    needs = tuple(role for role, name in GRADIENTS.items() if name in made.gradients)
    dO, dLSE = made.given["dO"], made.given.get("dLSE")
    return replace(made.call, problem=replace(made.call.problem, dO=dO, dLSE=dLSE, needs_grad=needs))


def _is_right(call: Call, found: _Made) -> bool:
    """Whether what a call returned is right, now that all calls are made: it may have changed since."""
    assert call.budget is not None
    O, LSE = found.returned if isinstance(found.returned, tuple) else (found.returned, None)
    truth = float64(call.problem)
    is_right = compare(O.detach(), truth.O, call.budget.O).ok
    is_right = is_right and (LSE is None or compare(LSE.detach(), truth.LSE, call.budget.LSE).ok)
    if not is_right or call.gradient_budget is None:
        return is_right
    wanted = gradients64(call.problem, truth)
    held = ((found.gradients[n], getattr(wanted, n), getattr(call.gradient_budget, n)) for n in call.gradients)
    return all(compare(*each).ok for each in held)


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU of a tensor and of all the memory that it lies in."""
    return memory_of(tensor).cpu().clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
