"""A case examined: what a campaign needs to know of it, small enough to travel between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import Refused, first_line
from harness.judging.heat import HeatMap, heat_map
from harness.judging.judge import judge
from harness.judging.seen import Seen, seen_in
from harness.judging.verdict import Verdict
from harness.judging.votes import with_votes
from harness.running.attempt import attempt
from harness.running.call import has_gradients
from harness.subject.declaration import Subject
from oracles import Comparison
from strategies import AttentionCase


@dataclass(frozen=True)
class Question:
    """A case and how closely to look at it: `also` and `others` as in `judge`, votes: ask every oracle of a failure.

    maps: make a heat map of every failure. probes: only ask whether the subject has gradients for the case.
    """

    case: AttentionCase
    also: frozenset[str] = frozenset()
    others: bool = True
    votes: bool = False
    maps: bool = False
    probes: bool = False

    @classmethod
    def again(cls, case: AttentionCase, check: str) -> Question:
        """Whether one check still finds the case wrong."""
        return cls(case, frozenset({check}), others=False, votes=True)


@dataclass(frozen=True)
class Examined:
    """What came of a case: every failure, or why the subject refused it.

    compared: O, LSE and the gradients, as far as they came, held against the truth; empty where what came back has no
    right form.
    seen: classes of the case that its truth shows, by axis, where the truth was made.
    maps: of the failures that have one, by check, where they were asked for. differentiable: where that was asked.
    """

    verdicts: tuple[Verdict, ...] = ()
    compared: dict[str, Comparison] = field(default_factory=dict)
    seen: Seen | None = None
    refused: str | None = None
    maps: dict[str, HeatMap] = field(default_factory=dict)
    differentiable: bool | None = None


class Examiner(Protocol):
    """What a campaign asks its questions of."""

    def examine(self, question: Question) -> Examined:
        """Run the case and judge it."""

    def afresh(self, question: Question) -> Examined | None:
        """The same in a process in which no case was run before; None where that cannot be."""

    def close(self) -> None:
        """Nothing will be asked any more."""


def examine(
    subject: Subject, question: Question, device: str, at: Callable[[str], None] = lambda name: None
) -> Examined:
    """Run a case on a subject in this process, and judge what comes back; `at` as in `judge`."""
    if question.probes:
        return _probed(subject, question.case, device)
    try:
        tried = attempt(subject, question.case, device)
    except Refused as refusal:
        return Examined(refused=str(refusal))
    verdicts = judge(tried, question.also, question.others, at)
    if question.votes:
        verdicts = [with_votes(tried, verdict) for verdict in verdicts]
    is_formed = not any(verdict.tensor is None for verdict in verdicts)
    if not is_formed:
        return Examined(tuple(verdicts))
    drawn = {verdict.check: heat_map(tried, verdict) for verdict in verdicts} if question.maps else {}
    maps = {check: found for check, found in drawn.items() if found is not None}
    return Examined(tuple(verdicts), dict(tried.compared), seen_in(tried.truth), maps=maps)


def _probed(subject: Subject, case: AttentionCase, device: str) -> Examined:
    """Whether a call has gradients; one that raises on tensors that require them has none."""
    try:
        return Examined(differentiable=has_gradients(subject, case, device))
    except Refused as refusal:
        return Examined(refused=str(refusal))
    except Exception as error:
        verdict = Verdict("raised", "returns", f"the call raised {first_line(error)}")
        return Examined((verdict,), differentiable=False)
