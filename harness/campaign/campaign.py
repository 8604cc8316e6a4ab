"""A campaign: many cases against one subject, until the time or the number of cases is used up.

It begins with small cases and with default cases of which one part differs. Then it goes in rounds, each a Hypothesis
test with a seed of its own. The first fault that a round meets is shrunk in it and settled; then the round is repeated,
which passes over what is known and does not run again what it has run, so that one fault does not hide the next.
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

from harness.campaign.cause import free_key, is_explained, is_same_place, needs, superseded
from harness.campaign.differentiable import with_differentiability
from harness.campaign.finding import FaultKey, Finding, fault_key
from harness.campaign.keeper import CorpusKeeper
from harness.campaign.known import forward_of, is_implied
from harness.campaign.opening import opening
from harness.campaign.settle import Shrinking, settle
from harness.campaign.tally import Tally
from harness.judging.examine import Examined, Examiner, Question
from harness.judging.verdict import FAILURES, Failure, Verdict
from harness.subject.declaration import Subject
from harness.workers import Here
from strategies import AttentionCase, calls_before

CASES_A_ROUND = 200
SHRINK_SECONDS = 30.0
"""For each cause."""

BORDERLINE_SECONDS = 3.0
BORDERLINE = 1.5
"""A failure with an error/budget below this is near its threshold: which smaller case fails is luck."""

LEAST_SHRINK_SECONDS = 2.0
"""For a fault that is met when the campaign's time is nearly up."""

SHORTEN_SECONDS = 10.0
"""For the last step of shrinking, after Hypothesis."""

LEAST_RATIO = 2.0**-20
ROUNDS_TO_AIM = 4
"""One round in four climbs toward a larger error/budget: that finds imprecise results, and misses rare faults."""

WOULD_HANG = "not run: it has all that a known hang needs"

Watch = Callable[[Any], None]
"""Called after every case with the `Campaign` or `Jobs`. Raising KeyboardInterrupt ends it, as Ctrl-C does."""


def unwatched(campaign: object) -> None:
    """Watch nothing."""


@dataclass
class Round:
    """The state of one round. is_aiming: whether Hypothesis climbs toward a larger error/budget.

    size: how many cases it draws. ran: what the cases showed that were run before a fault was met. fault, shrinking:
    the fault that is being shrunk; None: none was met. failed: its failures by case; they are raised again once there
    is no more time to shrink, so that Hypothesis keeps what it has.
    """

    is_aiming: bool = False
    size: int = CASES_A_ROUND
    ran: dict[AttentionCase, Examined] = field(default_factory=dict)
    fault: FaultKey = ()
    shrinking: Shrinking | None = None
    failed: dict[AttentionCase, Failure] = field(default_factory=dict)


@dataclass
class Campaign:
    """Runs cases against a subject; `tally` and `findings` are its outcome, valid at any moment.

    seconds, cases: whichever is used up first ends it (None: no limit); shrinking counts. before: cases to run before
    any other. opens: run the cases of `harness.campaign.opening` before any is drawn. examiner: runs and judges the
    cases; None: this process does. It is closed at the end. keeper: saves each fault when it is met and when it is
    settled. probes: find out first whether a subject that does not declare it has gradients. max_failures: end when so
    many are found (None: no limit). findings: those known already are passed over.
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
    opens: bool = False
    max_failures: int | None = None
    _implied: dict[FaultKey, Finding] = field(init=False, default_factory=dict)
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
            self._run_opening(watch)
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
        return self._round.shrinking is not None

    @property
    def failing(self) -> int:
        """Faults met so far, the one that is being shrunk among them."""
        return len(self.findings) + self.is_shrinking

    @property
    def met(self) -> dict[FaultKey, Finding]:
        """The fault that is being shrunk, with its smallest case so far."""
        current = self._round
        return {} if current.shrinking is None else {current.fault: current.shrinking.finding()}

    def _is_over(self) -> bool:
        out_of_time = self.seconds is not None and self.tally.seconds >= self.seconds
        has_enough = self.max_failures is not None and len(self.findings) >= self.max_failures
        return out_of_time or has_enough or (self.cases is not None and self.tally.cases >= self.cases)

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
            self._round = Round()

    def _run_opening(self, watch: Watch) -> None:
        """Run small cases, and default ones of which one part differs: what fails there is shrunk at once."""
        if not self.opens:
            return
        for part in opening(self.subject, self.seconds, self.cases):
            settling, began = 0.0, time.monotonic()
            for case in part.cases:
                if self._is_over() or time.monotonic() - began - settling >= part.seconds:
                    break
                with suppress(Failure):
                    self._run_case(case, watch)
                settled = time.monotonic()
                self._settle()
                self._round = Round()
                settling += time.monotonic() - settled

    def _run_round(self, number: int, watch: Watch) -> None:
        """Run a round, and repeat it until it shows no other fault."""
        left = CASES_A_ROUND if self.cases is None else max(1, min(CASES_A_ROUND, self.cases - self.tally.cases))
        self._round = Round(is_aiming=number % ROUNDS_TO_AIM == ROUNDS_TO_AIM - 1, size=left)
        is_repeated = False
        while True:
            before = self._round
            self._run_pass(number, watch, is_repeated)
            if before.shrinking is None or self._is_over():
                break
            is_repeated = True
            self._round = replace(before, shrinking=None, failed={})
        self._round = Round()

    def _run_pass(self, number: int, watch: Watch, is_repeated: bool) -> None:
        def examine(case: AttentionCase) -> None:
            self._run_case(case, watch)

        test = given(case=self.subject.cases())(examine)
        # In this order: a seed takes the database away.
        test = self._settings(is_first=number == 0, is_repeated=is_repeated)(seed(hash((self.seed, number)))(test))
        try:
            with suppress(Failure, ExceptionGroup, Flaky):  # the round has noted what failed
                test()
        except BaseExceptionGroup as group:
            # Ctrl-C in two places of a round is two bugs to Hypothesis.
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            raise KeyboardInterrupt from group
        self._settle()

    def _settings(self, is_first: bool, is_repeated: bool) -> settings:
        """Saved examples are tried in the first round alone: later ones pass over known faults and would drop them."""
        keeps = is_first and is_repeated and self.database is not None
        return settings(
            max_examples=self._round.size,
            deadline=None,
            database=_Keeping(self.database) if keeps and self.database is not None else self.database,
            verbosity=Verbosity.quiet,
            phases=(
                *([Phase.reuse] if is_first else []),
                Phase.generate,
                *([Phase.target] if self._round.is_aiming else []),
                Phase.shrink,
            ),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            print_blob=False,
        )

    def _run_case(self, case: AttentionCase, watch: Watch) -> None:
        """Run a case; raise a Failure where it shows the fault that is being shrunk, or the first one that is news."""
        current = self._round
        if current.shrinking is None:
            if case not in current.ran and self._is_over():
                return
        elif current.shrinking.is_out_of_time:
            if case in current.failed:
                raise current.failed[case]
            return
        verdict = self._first_new(case)
        watch(self)
        if verdict is not None:
            current.failed[case] = _exception(*fault_key(verdict))(verdict, case, verdict.sentence)
            raise current.failed[case]

    def _first_new(self, case: AttentionCase) -> Verdict | None:
        """Run a case; return the first verdict that is neither known nor a borderline one."""
        examined = self._examine(case)
        new = [verdict for verdict in examined.verdicts if not self._is_known(case, verdict)]
        own = [verdict for verdict in new if not self._is_of_forward(case, verdict)]
        return next((verdict for verdict in own if self._note(case, verdict)), None)

    def _examine(self, case: AttentionCase) -> Examined:
        """Run and count a case, unless the round has run it already."""
        current = self._round
        if current.shrinking is None and case in current.ran:
            self._aim(current.ran[case])
            return current.ran[case]
        if self._would_hang(case):
            self.tally.refuse(WOULD_HANG)
            return Examined()
        # A check whose failure is being shrunk is asked of every candidate, relations too.
        also = frozenset() if current.shrinking is None else frozenset({current.fault[1]})
        examined = self._examiner.examine(Question(case, also=also))
        if current.shrinking is None:
            current.ran[case] = examined
        if examined.refused is not None:
            self.tally.refuse(examined.refused)
        elif current.shrinking is None:
            self.tally.add(case, examined.compared, examined.seen)
            self._aim(examined)
        return examined

    def _aim(self, examined: Examined) -> None:
        if examined.compared and self._round.is_aiming:
            _aim(max(found.ratio for found in examined.compared.values()))

    def _would_hang(self, case: AttentionCase) -> bool:
        """Whether a case, or a call before it, has all that a known hang needs: it would cost its time limit again."""
        hangs = [needs(each.shrunk) for each in self.findings.values() if each.verdict.kind == "timed_out"]
        made = [needs(each) for each in (case, *calls_before(case))] if hangs else []
        return any(hang and hang <= each for hang in hangs for each in made)

    def _is_known(self, case: AttentionCase, verdict: Verdict) -> bool:
        being_shrunk = [self._round.fault] if self.is_shrinking else []
        return self._is_known_cause(case, verdict) or is_implied(verdict, (*self._known_keys(), *being_shrunk))

    def _known_keys(self) -> set[FaultKey]:
        """The faults that are known, both as they were met and as they were settled."""
        known = self.findings | self._implied
        return {*known, *(fault_key(finding.verdict) for finding in known.values())}

    def _is_of_forward(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Whether a wrong gradient only repeats a fault of the forward, which the values of O may hide."""
        if verdict.kind != "wrong_gradient" or verdict.tensor is None:
            return False
        return bool(self._examiner.examine(Question(forward_of(case), others=False)).verdicts)

    def _note(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Note a failing case of a fault; return False where it is no case to shrink to."""
        current = self._round
        if current.shrinking is not None:
            is_same = fault_key(verdict) == current.fault[:2]
            is_same = is_same and is_same_place(verdict, current.shrinking.smallest[1])
            return is_same and current.shrinking.follow(case, verdict)
        current.fault = free_key(verdict, (*self.findings, *self._implied))
        until = time.monotonic() + self._shrink_seconds(verdict)
        current.shrinking = Shrinking.begin(case, verdict, self.tally.cases, self.tally.seconds, until)
        if self.keeper is not None:
            self.keeper.save_met(current.fault, case, verdict)
        return True

    def _shrink_seconds(self, verdict: Verdict) -> float:
        """How long a cause may be shrunk."""
        most = BORDERLINE_SECONDS if verdict.ratio < BORDERLINE else SHRINK_SECONDS
        if self.seconds is None:
            return most
        return min(most, max(LEAST_SHRINK_SECONDS, self.seconds - self.tally.seconds))

    def _settle(self) -> None:
        """Turn what the round has met into a finding."""
        fault, shrinking = self._round.fault, self._round.shrinking
        if shrinking is None:
            return
        shrinking.until = time.monotonic() + min(SHORTEN_SECONDS, self._shrink_seconds(shrinking.smallest[1]))
        finding = settle(shrinking, self._examiner, self.subject, self._is_known_cause)
        # Its kind may be another now, and then say no more than another finding.
        is_new = not is_implied(finding.verdict, self._known_keys())
        file = None if self.keeper is None else self.keeper.save_settled(fault, finding if is_new else None)
        if is_new:
            implied = [key for key, old in self.findings.items() if is_implied(old.verdict, (fault,))]
            for old in {*superseded(self.findings, fault, finding), *implied}:
                self._drop(old, instead=file)
            self.findings[fault] = replace(finding, file=file)
        else:
            self._implied[fault] = finding
        self._round = replace(self._round, shrinking=None, failed={})

    def _is_known_cause(self, case: AttentionCase, verdict: Verdict) -> bool:
        return is_explained(self.findings | self._implied, case, verdict)

    def _drop(self, fault: FaultKey, instead: Path | None) -> None:
        """Forget a finding whose cause another one shows with a simpler case."""
        dropped = self.findings.pop(fault)
        if self.keeper is not None and dropped.file not in (None, instead):
            self.keeper.forget(dropped)


class _Keeping(ExampleDatabase):
    """A database that drops nothing: an example of a fault that has just become known fails still."""

    def __init__(self, database: ExampleDatabase) -> None:
        super().__init__()
        self._database = database

    def save(self, key: bytes, value: bytes) -> None:
        """Save an example."""
        self._database.save(key, value)

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """Return the examples."""
        return self._database.fetch(key)

    def delete(self, key: bytes, value: bytes) -> None:
        """Keep the example."""


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
