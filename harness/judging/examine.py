"""Examines a case: runs and judges it, with an answer small enough to travel between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import Refused
from harness.judging.heat import HeatMap, heat_map
from harness.judging.judge import judge
from harness.judging.outside import with_tensors_read
from harness.judging.seen import Seen, seen_in
from harness.judging.verdict import Verdict
from harness.judging.votes import with_votes
from harness.running.attempt import attempt
from harness.running.call import has_gradients
from harness.running.raised import describe_raised
from harness.subject.declaration import Subject
from oracles import Comparison
from strategies import AttentionCase


@dataclass(frozen=True)
class Question:
    """A case and what to find out: `also` and `others` as in `judge`; votes: let every oracle vote on a failure.

    maps: make a heat map of every failure. probes: only find out whether the subject has gradients for the case.
    """

    case: AttentionCase
    also: frozenset[str] = frozenset()
    others: bool = True
    votes: bool = False
    maps: bool = False
    probes: bool = False

    @classmethod
    def again(cls, case: AttentionCase, check: str) -> Question:
        """Ask whether one check still fails on the case."""
        return cls(case, frozenset({check}), others=False, votes=True)


@dataclass(frozen=True)
class Examined:
    """The result of a case: every failure, or why the subject refused it.

    compared: O, LSE and the gradients that came back, compared with the truth; empty if the result has a wrong form.
    seen: the classes of the case that its truth shows, by axis; None if the truth was not made.
    maps: heat maps by check, if the question asks for them. differentiable: the answer to a question that probes.
    """

    verdicts: tuple[Verdict, ...] = ()
    compared: dict[str, Comparison] = field(default_factory=dict)
    seen: Seen | None = None
    refused: str | None = None
    maps: dict[str, HeatMap] = field(default_factory=dict)
    differentiable: bool | None = None


class Examiner(Protocol):
    """Answers the questions of a campaign."""

    def examine(self, question: Question) -> Examined:
        """Run the case and judge it."""

    def examine_fresh(self, question: Question) -> Examined | None:
        """Do the same in a process that has run no case before; None if that is not possible."""

    def close(self) -> None:
        """Release everything; no question follows."""


def examine(
    subject: Subject, question: Question, device: str, at: Callable[[str], None] = lambda name: None
) -> Examined:
    """Run a case on a subject in this process, and judge what comes back; `at` as in `judge`."""
    if question.probes:
        return _probe(subject, question.case, device)
    try:
        tried = attempt(subject, question.case, device)
    except Refused as refusal:
        return Examined(refused=str(refusal))
    verdicts = judge(tried, question.also, question.others, at)
    if question.votes:
        verdicts = [with_tensors_read(tried, with_votes(tried, verdict)) for verdict in verdicts]
    is_formed = not any(verdict.tensor is None for verdict in verdicts)
    if not is_formed:
        return Examined(tuple(verdicts))
    drawn = {verdict.check: heat_map(tried, verdict) for verdict in verdicts} if question.maps else {}
    maps = {check: found for check, found in drawn.items() if found is not None}
    return Examined(tuple(verdicts), dict(tried.compared), seen_in(tried.truth), maps=maps)


def _probe(subject: Subject, case: AttentionCase, device: str) -> Examined:
    """Find out whether a call has gradients; a call that raises on tensors that require them has none."""
    try:
        return Examined(differentiable=has_gradients(subject, case, device))
    except Refused as refusal:
        return Examined(refused=str(refusal))
    except Exception as error:
        verdict = Verdict("raised", "returns", f"the call raised {describe_raised(error)}")
        return Examined((verdict,), differentiable=False)
