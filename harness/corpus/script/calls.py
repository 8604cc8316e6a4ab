"""The calls of a script: those of the case or, if a relation failed, all calls of the relation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from harness.corpus.entries import Entry
from harness.errors import CannotRun
from harness.judging.relations import RELATIONS, check_relations
from harness.running.attempt import attempt, is_independent
from harness.subject.declaration import Subject
from oracles import Judgement
from strategies import AttentionCase, Features, Problem, build, calls_before
from strategies.features import FEATURES, gradient_of
from strategies.tensors import memory_of


@dataclass(frozen=True)
class Call:
    """One call: its tensors before the call, on the CPU, and their judgement.

    case: the case that the tensors are made from, or None. judgement: None if the result is not checked. There is a
    backward if the problem has a dO.
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
        """The names of its float tensors: q, k, v, and those that features bring."""
        return tuple(self.problem.inputs)

    @property
    def incoming(self) -> tuple[str, ...]:
        """The names of the gradients of its outputs."""
        return tuple(name for name in self.problem.tensors if name not in self.problem.inputs)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The names of the gradients that its backward computes."""
        return tuple(map(gradient_of, self.problem.needs_grad))

    def with_judgement(self, subject: Subject, independent: bool) -> Call:
        """Return the call with the judgement of its result."""
        p_dtype = subject.torch_p_dtype()
        return replace(
            self, judgement=Judgement(self.problem, p_dtype=p_dtype, independent=independent, atol=subject.atol)
        )


def calls(entry: Entry, subject: Subject) -> list[Call]:
    """Return the calls that show an entry's failure, in order. Raises CannotRun if no single call shows it."""
    if entry.check in RELATIONS:
        return _of_relation(entry, subject)
    earlier = [_of_case(case) for case in calls_before(entry.case)]
    return [*earlier, _of_case(entry.case).with_judgement(subject, is_independent(entry.case))]


def _of_case(case: AttentionCase) -> Call:
    return Call(build(case), case)


def _of_relation(entry: Entry, subject: Subject) -> list[Call]:
    """Run the relation and record its calls: if two differ by more than both budgets, one exceeds its own."""
    recorder = _Recorder(subject)
    tried = attempt(replace(subject, function=recorder), entry.case, entry.device)
    verdicts = list(check_relations(tried, [entry.check], others=False))
    independent = is_independent(entry.case)
    judged = [call.with_judgement(subject, independent and i == 0) for i, call in enumerate(recorder.calls)]
    some_call_fails = any(not _is_right(call, record) for call, record in zip(judged, recorder.records, strict=True))
    if verdicts and verdicts[0].tensor and not some_call_fails:
        raise CannotRun(f"Each call of {entry.check} is right by itself, so no script can show the failure: replay it.")
    return judged


@dataclass
class _Record:
    """A recorded call: its result, and the gradients that its backward was given and returned, by name."""

    call: Call
    returned: Any = None
    given: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


class _Recorder:
    """A subject's function that records every call, and every backward."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.records: list[_Record] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Any:
        features = Features(**{name: each.of_arguments(arguments) for name, each in FEATURES.items()})
        brought = {name: _copy(given) for name, given in arguments.items() if isinstance(given, Tensor)}
        record = _Record(Call(Problem(_copy(q), _copy(k), _copy(v), features, brought)))
        self.records.append(record)
        for name, tensor in ({"q": q, "k": k, "v": v} | arguments).items():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(  # type: ignore[no-untyped-call]
                    _recording_hook(record.gradients, gradient_of(name), lambda gradient: gradient)
                )
        returned = self.subject.function(q, k, v, **arguments)
        for name, output in zip(("dO", "dLSE"), returned if isinstance(returned, tuple) else (returned,), strict=False):
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(_recording_hook(record.given, name, _copy))  # type: ignore[no-untyped-call]
        record.returned = returned
        return returned

    @property
    def calls(self) -> list[Call]:
        """The calls with their backward; read it after all calls."""
        return [_with_backward(record) for record in self.records]


def _recording_hook(
    found: dict[str, Tensor], name: str, copy: Callable[[Tensor], Tensor]
) -> Callable[[Tensor | None], None]:
    def record(gradient: Tensor | None) -> None:
        if gradient is not None:
            found[name] = copy(gradient)

    return record


def _with_backward(record: _Record) -> Call:
    if "dO" not in record.given:
        return record.call
    needs = tuple(name for name in record.call.inputs if gradient_of(name) in record.gradients)
    dO, dLSE = record.given["dO"], record.given.get("dLSE")
    return replace(record.call, problem=replace(record.call.problem, dO=dO, dLSE=dLSE, needs_grad=needs))


def _is_right(call: Call, record: _Record) -> bool:
    """Whether the result of a call is right after all calls: a later one may have changed it."""
    assert call.judgement is not None
    O, LSE = record.returned if isinstance(record.returned, tuple) else (record.returned, None)
    tensors = {"O": O.detach()} | ({} if LSE is None else {"LSE": LSE.detach()})
    tensors |= {name: record.gradients[name] for name in call.gradients}
    return all(comparison.ok for comparison in call.judgement.compare(tensors).values())


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor with its whole storage to the CPU."""
    return memory_of(tensor).cpu().clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
