"""A campaign: many cases against one subject, until the time or the number of cases is used up.

It goes in rounds, each a Hypothesis test with a seed of its own. A fault that a round meets is shrunk in it and settled
at its end; later rounds pass over what is known, so that one fault does not hide the next.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.errors import Flaky

from harness.campaign.differentiable import with_differentiability
from harness.campaign.finding import FaultKey, Finding, fault_key
from harness.campaign.keeper import CorpusKeeper
from harness.campaign.known import forward_of, is_implied, is_known, relations_last
from harness.campaign.settle import Shrinking, settle
from harness.campaign.tally import Tally
from harness.judging.examine import Examined, Examiner, Question
from harness.judging.verdict import FAILURES, Failure, Verdict
from harness.subject.declaration import Subject
from harness.workers import Here
from strategies import AttentionCase

CASES_A_ROUND = 200
SHRINK_SECONDS = 30.0
LEAST_RATIO = 2.0**-20
ROUNDS_TO_AIM = 4
"""One round in four climbs toward a larger error/budget: that finds imprecise results, and misses rare faults."""

Watch = Callable[[Any], None]
"""Called after every case with the `Campaign` or `Jobs`. Raising KeyboardInterrupt ends it, as Ctrl-C does."""


def unwatched(campaign: object) -> None:
    """Watch nothing."""


@dataclass
class Round:
    """The state of one round. is_aiming: whether Hypothesis climbs toward a larger error/budget.

    shrinking: the faults met in it. shrink_until: when shrinking must end, by the monotonic clock; None: no fault was
    met. failed: failures by case; they are raised again once that time is up, so that Hypothesis keeps what it has.
    """

    is_aiming: bool = False
    shrinking: dict[FaultKey, Shrinking] = field(default_factory=dict)
    shrink_until: float | None = None
    failed: dict[AttentionCase, Failure] = field(default_factory=dict)


@dataclass
class Campaign:
    """Runs cases against a subject; `tally` and `findings` are its outcome, valid at any moment.

    seconds, cases: whichever is used up first ends it (None: no limit). before: cases to run before any is drawn,
    smallest first, since they are not shrunk (`harness.campaign.small_box`). examiner: runs and judges the cases; None:
    this process does. It is closed at the end. keeper: saves each fault when it is met and when it is settled. probes:
    find out first whether a subject that does not declare it has gradients.
    """

    subject: Subject
    device: str
    seed: int
    seconds: float | None = 60.0
    cases: int | None = None
    database: ExampleDatabase | None = None
    before: Iterable[AttentionCase] = ()
    examiner: Examiner | None = None
    keeper: CorpusKeeper | None = None
    probes: bool = False
    tally: Tally = field(default_factory=Tally)
    findings: dict[FaultKey, Finding] = field(default_factory=dict)
    _known: set[FaultKey] = field(init=False, default_factory=set)
    _round: Round = field(init=False, default_factory=Round)

    def __post_init__(self) -> None:
        self._examiner = self.examiner or Here(self.subject, self.device)

    def run(self, watch: Watch = unwatched) -> Campaign:
        """Run to the end, or to Ctrl-C, which ends the campaign and loses nothing; call `watch` after every case.

        Raises CannotRun where gradients alone are asked for and the subject has none.
        """
        number = 0
        try:
            self._run_given(watch)
            self._probe()
            while not self._is_over():
                self._run_round(number, watch)
                number += 1
        except KeyboardInterrupt:
            self._settle()
        finally:
            self._examiner.close()
        return self

    @property
    def is_shrinking(self) -> bool:
        """Whether a fault has been met in this round and is being shrunk."""
        return self._round.shrink_until is not None

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""
        return len(self.findings) + len(self._round.shrinking)

    @property
    def met(self) -> dict[FaultKey, Finding]:
        """The faults that are being shrunk, each with its smallest case so far."""
        return {fault: shrinking.finding() for fault, shrinking in self._round.shrinking.items()}

    def _is_over(self) -> bool:
        out_of_time = self.seconds is not None and self.tally.seconds >= self.seconds
        return out_of_time or (self.cases is not None and self.tally.cases >= self.cases)

    def _probe(self) -> None:
        """Find out whether there are gradients to ask for; this time is not the campaign's."""
        if self.probes and not self._is_over():
            began = time.monotonic()
            self.subject = with_differentiability(self.subject, self._examiner)
            self.tally.started += time.monotonic() - began

    def _run_given(self, watch: Watch) -> None:
        given = iter(self.before)
        # A given case may stay noted on disk until it is taken: take none that there is no time to run.
        while not self._is_over() and (case := next(given, None)) is not None:
            with suppress(Failure):
                self._run_case(case, watch)
            self._settle()

    def _run_round(self, number: int, watch: Watch) -> None:
        self._round = Round(is_aiming=number % ROUNDS_TO_AIM == ROUNDS_TO_AIM - 1)

        def examine(case: AttentionCase) -> None:
            self._run_case(case, watch)

        test = given(case=self.subject.cases())(examine)
        # In this order: a seed takes the database away.
        test = self._settings(is_first=number == 0)(seed(hash((self.seed, number)))(test))
        try:
            with suppress(Failure, ExceptionGroup, Flaky):  # the round has noted what failed
                test()
        except BaseExceptionGroup as group:
            # Ctrl-C in two places of a round is two bugs to Hypothesis.
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            raise KeyboardInterrupt from group
        self._settle()

    def _settings(self, is_first: bool) -> settings:
        """Saved examples are tried in the first round alone: later ones pass over known faults and would drop them."""
        left = CASES_A_ROUND if self.cases is None else max(1, min(CASES_A_ROUND, self.cases - self.tally.cases))
        return settings(
            max_examples=left,
            deadline=None,
            database=self.database,
            verbosity=Verbosity.quiet,
            phases=(
                *([Phase.reuse] if is_first else []),
                Phase.generate,
                *([Phase.target] if self._round.is_aiming else []),
                Phase.shrink,
            ),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=True,
            print_blob=False,
        )

    def _run_case(self, case: AttentionCase, watch: Watch) -> None:
        """Run a case; raise a Failure where it shows a fault that is news."""
        until, failed = self._round.shrink_until, self._round.failed
        if until is None:
            if self._is_over():
                return
        elif time.monotonic() >= until:
            if case in failed:
                raise failed[case]
            return
        verdict = self._first_new(case)
        watch(self)
        if verdict is not None:
            failed[case] = _exception(*fault_key(verdict))(verdict, case, verdict.sentence)
            raise failed[case]

    def _first_new(self, case: AttentionCase) -> Verdict | None:
        """Run a case; return the first verdict that is neither known from an earlier round nor a borderline one."""
        # A check whose failure is being shrunk is asked of every candidate, relations too.
        examined = self._examiner.examine(Question(case, also=frozenset(check for _, check in self._round.shrinking)))
        if examined.refused is not None:
            self.tally.refuse(examined.refused)
            return None
        self._count(case, examined)
        new = [verdict for verdict in examined.verdicts if not self._is_known(verdict)]
        own = [verdict for verdict in new if not self._is_of_forward(case, verdict)]
        return next((verdict for verdict in own if self._note(case, verdict)), None)

    def _count(self, case: AttentionCase, examined: Examined) -> None:
        if not self.is_shrinking:
            self.tally.add(case, examined.compared, examined.seen)
            if examined.compared and self._round.is_aiming:
                _aim(max(found.ratio for found in examined.compared.values()))

    def _is_known(self, verdict: Verdict) -> bool:
        return fault_key(verdict) in self._known or is_implied(verdict, (*self._known, *self._round.shrinking))

    def _is_of_forward(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Whether a wrong gradient only repeats a fault of the forward, which the values of O may hide."""
        if verdict.kind != "wrong_gradient" or verdict.tensor is None:
            return False
        return bool(self._examiner.examine(Question(forward_of(case), others=False)).verdicts)

    def _note(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Note a failing case of a fault; return False where it is no case to shrink to."""
        fault, current = fault_key(verdict), self._round
        if fault in current.shrinking:
            return current.shrinking[fault].follow(case, verdict)
        current.shrinking[fault] = Shrinking.begin(case, verdict, self.tally.cases, self.tally.seconds)
        current.shrink_until = current.shrink_until or time.monotonic() + SHRINK_SECONDS
        if self.keeper is not None:
            self.keeper.save_met(fault, case, verdict)
        return True

    def _settle(self) -> None:
        """Turn what the round has met into findings, and end the round."""
        for fault, shrinking in relations_last(self._round.shrinking.items()):
            finding = settle(shrinking, self._examiner)
            is_new = not is_known(finding.verdict, self._known)
            file = None if self.keeper is None else self.keeper.save_settled(fault, finding if is_new else None)
            if is_new:
                self.findings[fault] = replace(finding, file=file)
            self._known |= {fault, fault_key(finding.verdict)}
        self._round = Round()


def _aim(ratio: float) -> None:
    """Report to Hypothesis how near the budget a case came."""
    if math.isfinite(ratio):
        target(math.log(max(ratio, LEAST_RATIO)), label="log(error/budget)")


@functools.cache
def _exception(kind: str, check: str) -> type[Failure]:
    """A class for each fault: Hypothesis distinguishes bugs by it, and shrinks each by itself."""
    return type(f"{FAILURES[kind].__name__}By{check.title().replace('_', '')}", (FAILURES[kind],), {})


def database_folder(folder: str | Path, subject: str, device: str) -> Path:
    """The folder of a subject's own examples: Hypothesis keys them by the test's source, and drops those that pass."""
    return Path(folder) / hashlib.sha256(f"{subject} on {device}".encode()).hexdigest()[:16]


def shared_database(folder: str | Path) -> ExampleDatabase:
    """A database of examples that parallel workers may share: it writes by renaming."""
    return DirectoryBasedExampleDatabase(folder)
