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
from harness.subject.declaration import Subject
from oracles import Judgement
from strategies import AttentionCase, Features, Problem, build, calls_before
from strategies.features import FEATURES, gradient_of
from strategies.tensors import memory_of


@dataclass(frozen=True)
class Call:
    """One call: its tensors as they are before it, on the CPU, and what is asked of it.

    case: what the tensors follow from, where anything. judgement: None where nothing is asked of what comes back.
    There is a backward where the problem has a dO.
    """

    problem: Problem
    case: AttentionCase | None = None
    judgement: Judgement | None = None

    @property
    def wants_lse(self) -> bool:
        """Whether it asks for LSE."""
        return bool(self.problem.features.return_lse)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the float tensors that it is handed: q, k, v, and those that features bring."""
        return tuple(self.problem.inputs)

    @property
    def incoming(self) -> tuple[str, ...]:
        """The names of the gradients that come back through its outputs."""
        return tuple(name for name in self.problem.tensors if name not in self.problem.inputs)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The names of the gradients that its backward is asked for."""
        return tuple(map(gradient_of, self.problem.needs_grad))

    def judged(self, subject: Subject, independent: bool) -> Call:
        """The call with what is right, and how far from it is allowed."""
        p_dtype = subject.torch_p_dtype()
        return replace(self, judgement=Judgement(self.problem, p_dtype=p_dtype, independent=independent))


def calls(entry: Entry, subject: Subject) -> list[Call]:
    """Return the calls that show an entry's failure, in order. Raises CannotRun where no call by itself shows it."""
    if entry.check in RELATIONS:
        return _of_relation(entry, subject)
    earlier = [_of_case(case) for case in calls_before(entry.case)]
    return [*earlier, _of_case(entry.case).judged(subject, is_independent(entry.case))]


def _of_case(case: AttentionCase) -> Call:
    return Call(build(case), case)


def _of_relation(entry: Entry, subject: Subject) -> list[Call]:
    """Run the relation and note its calls: where two differ by more than both budgets, one is beyond its own."""
    recorder = _Recorder(subject)
    tried = attempt(replace(subject, function=recorder), entry.case, entry.device)
    verdicts = list(hold(tried, [entry.check], others=False))
    independent = is_independent(entry.case)
    made = [call.judged(subject, independent and i == 0) for i, call in enumerate(recorder.calls)]
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

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Any:
        features = Features(**{name: each.of_arguments(arguments) for name, each in FEATURES.items()})
        brought = {name: _kept(given) for name, given in arguments.items() if isinstance(given, Tensor)}
        made = _Made(Call(Problem(_kept(q), _kept(k), _kept(v), features, brought)))
        self.made.append(made)
        for name, tensor in ({"q": q, "k": k, "v": v} | arguments).items():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    _noting(made.gradients, gradient_of(name), lambda gradient: gradient)
                )
        returned = self.subject.function(q, k, v, **arguments)
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
    needs = tuple(name for name in made.call.inputs if gradient_of(name) in made.gradients)
    dO, dLSE = made.given["dO"], made.given.get("dLSE")
    return replace(made.call, problem=replace(made.call.problem, dO=dO, dLSE=dLSE, needs_grad=needs))


def _is_right(call: Call, found: _Made) -> bool:
    """Whether what a call returned is right, now that all calls are made: it may have changed since."""
    assert call.judgement is not None
    O, LSE = found.returned if isinstance(found.returned, tuple) else (found.returned, None)
    tensors = {"O": O.detach()} | ({} if LSE is None else {"LSE": LSE.detach()})
    tensors |= {name: found.gradients[name] for name in call.gradients}
    return all(compared.ok for compared in call.judgement.compare(tensors).values())


def _kept(tensor: Tensor) -> Tensor:
    """A copy on the CPU of a tensor and of all the memory that it lies in."""
    return memory_of(tensor).cpu().clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
