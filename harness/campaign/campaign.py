"""A campaign: many cases against one subject, until the time or the number of cases is used up.

It goes in rounds, each a Hypothesis test with a seed of its own. What fails in a round is shrunk in it and settled
at its end; later rounds pass over what is already known, so that one fault does not hide the next.
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
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase
from hypothesis.errors import Flaky

from harness.campaign.differentiable import settled
from harness.campaign.shorten import polish
from harness.campaign.tally import Tally
from harness.judging.examine import Examined, Examiner, Question
from harness.judging.relations import BITS, RELATIONS
from harness.judging.verdict import FAILURES, Failure, Verdict
from harness.subject.declaration import Subject
from harness.workers import Here
from strategies import AttentionCase, TensorSpec
from strategies.case import INPUTS
from strategies.features import VARIATIONS

CASES_A_ROUND = 200
SHRINK_SECONDS = 30.0
RERUNS = 5
LEAST_RATIO = 2.0**-20
ROUNDS_TO_AIM = 4
"""One round in so many climbs toward a larger error/budget: that finds what is imprecise, and misses what is rare."""

ENDS = ("crashed", "timed_out")

Fault = tuple[str, str]
"""A fault as a campaign tells faults apart: its kind and the check that saw it."""


class Keeper(Protocol):
    """Keeps what a campaign finds, as it finds it."""

    def met(self, fault: Fault, case: AttentionCase, verdict: Verdict) -> None:
        """A failure was met for the first time; it is being shrunk."""

    def settled(self, fault: Fault, finding: Finding | None) -> None:
        """It is shrunk: this is what came of it, or None where another finding tells of it already."""


@dataclass(frozen=True)
class Finding:
    """A fault that a campaign found: the smallest case, the worst one, and when it was first met.

    rate: the share of reruns of the smallest case that failed; less than 1 makes it not_repeatable.
    """

    verdict: Verdict
    shrunk: AttentionCase
    first: AttentionCase
    worst: AttentionCase
    worst_ratio: float
    cases_to_first: int
    seconds_to_first: float
    rate: float = 1.0


class Watch(Protocol):
    """Called after every case, with what can be said of the campaign."""

    def __call__(self, account: Any, /) -> None:
        """Look at it."""


def unwatched(account: object) -> None:
    """Watch nothing."""


class Account(Protocol):
    """What can be said of a campaign, or of several together, at any moment."""

    subject: Subject
    device: str
    seed: int
    seconds: float | None
    watch: Watch
    findings: dict[Fault, Finding]

    @property
    def tally(self) -> Tally:
        """Counts."""

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""

    @property
    def is_shrinking(self) -> bool:
        """Whether what was met is being shrunk, and nothing is counted."""


@dataclass
class _Trail:
    """What is known of one fault while its round lasts."""

    first: AttentionCase
    cases: int
    seconds: float
    enough: float
    worst: tuple[float, AttentionCase]
    latest: tuple[AttentionCase, Verdict]

    def as_it_is(self, rate: float = 1.0) -> Finding:
        """The finding that the latest failing case makes."""
        case, verdict = self.latest
        return Finding(verdict, case, self.first, self.worst[1], self.worst[0], self.cases, self.seconds, rate)


@dataclass
class Campaign:
    """Runs cases against a subject; `tally` and `findings` are its outcome, and stand at any moment.

    seconds, cases: whichever is used up first ends it (None: no limit). watch: called after every case.
    before: cases to run before any is drawn, smallest first, since they are not shrunk (`harness.campaign.small_box`).
    examiner: runs and judges the cases; None does so in this process. It is closed at the end. keeper: told of each
    failure when it is met, and of each finding when it is settled. probes: find out first whether a subject that does
    not say so has gradients.
    """

    subject: Subject
    device: str
    seed: int
    seconds: float | None = 60.0
    cases: int | None = None
    database: ExampleDatabase | None = None
    watch: Watch = unwatched
    before: Iterable[AttentionCase] = ()
    examiner: Examiner | None = None
    keeper: Keeper | None = None
    probes: bool = False
    tally: Tally = field(default_factory=Tally)
    findings: dict[Fault, Finding] = field(default_factory=dict)
    _trails: dict[Fault, _Trail] = field(default_factory=dict)
    _told: set[Fault] = field(default_factory=set)
    _failed: dict[AttentionCase, Failure] = field(default_factory=dict)
    _shrink_until: float | None = None
    _is_aiming: bool = False

    def run(self) -> Campaign:
        """Run to the end, or to Ctrl-C, which ends the campaign and loses nothing.

        Raises CannotRun where gradients alone are asked for and the subject has none.
        """
        number = 0
        self._examiner = self.examiner or Here(self.subject, self.device)
        try:
            self._run_given()
            self._find_out()
            while not self._is_over():
                self._round(number)
                number += 1
        except KeyboardInterrupt:
            self._settle()
        finally:
            self._examiner.close()
        return self

    @property
    def is_shrinking(self) -> bool:
        """Whether a failure has been met in this round and is being shrunk."""
        return self._shrink_until is not None

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""
        return len(self.findings) + len(self._trails)

    @property
    def met(self) -> dict[Fault, Finding]:
        """What was met in this round and is still being shrunk, as far as it is."""
        return {fault: trail.as_it_is() for fault, trail in self._trails.items()}

    def _is_over(self) -> bool:
        out_of_time = self.seconds is not None and self.tally.seconds >= self.seconds
        return out_of_time or (self.cases is not None and self.tally.cases >= self.cases)

    def _find_out(self) -> None:
        """Whether there are gradients to ask for; the clock of the campaign stands still meanwhile."""
        if self.probes and not self._is_over():
            began = time.monotonic()
            self.subject = settled(self.subject, self._examiner)
            self.tally.started += time.monotonic() - began

    def _run_given(self) -> None:
        given = iter(self.before)
        # What is given may be written down somewhere until it is asked for: what cannot be run is not asked for.
        while not self._is_over() and (case := next(given, None)) is not None:
            with suppress(Failure):
                self._try(case)
            self._settle()

    def _round(self, number: int) -> None:
        self._is_aiming = number % ROUNDS_TO_AIM == ROUNDS_TO_AIM - 1
        test = given(case=self.subject.cases())(self._test())
        # In this order: a seed takes the database away.
        test = self._settings(is_first=number == 0)(seed(hash((self.seed, number)))(test))
        try:
            with suppress(Failure, ExceptionGroup, Flaky):  # what failed is in the trails
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
                *([Phase.target] if self._is_aiming else []),
                Phase.shrink,
            ),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=True,
            print_blob=False,
        )

    def _test(self) -> Callable[[AttentionCase], None]:
        """The test of a round."""

        def examine(case: AttentionCase) -> None:
            self._try(case)

        return examine

    def _try(self, case: AttentionCase) -> None:
        if self._shrink_until is None:
            if self._is_over():
                return
        elif time.monotonic() >= self._shrink_until:
            if case in self._failed:
                raise self._failed[case]
            return
        verdict = self._unknown(case)
        self.watch(self)
        if verdict is not None:
            self._failed[case] = _exception(verdict.kind, verdict.check)(verdict, case, verdict.sentence)
            raise self._failed[case]

    def _unknown(self, case: AttentionCase) -> Verdict | None:
        """Run a case; return the first verdict that is neither known from an earlier round nor a borderline one."""
        examined = self._examiner.examine(Question(case, also=self._checks_in_sight()))
        if examined.refused is not None:
            self.tally.refuse(examined.refused)
            return None
        self._count(case, examined)
        fresh = [verdict for verdict in examined.verdicts if not self._is_known(verdict)]
        told = [verdict for verdict in fresh if self._says_more(case, verdict)]
        return next((verdict for verdict in told if self._follow(case, verdict)), None)

    def _says_more(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Whether what is wrong with a gradient is no fault of the forward, which O may hide by its values.

        Where all rows of V are equal no mask can matter to O, but it does to dV.
        """
        if verdict.kind != "wrong_gradient" or verdict.tensor is None:
            return True
        forward = self._examiner.examine(Question(forward_of(case), others=False))
        return not forward.verdicts

    def _checks_in_sight(self) -> frozenset[str]:
        """Checks whose failures are being shrunk: their relations are asked of every candidate."""
        return frozenset(check for _, check in self._trails)

    def _count(self, case: AttentionCase, examined: Examined) -> None:
        if self._shrink_until is None:
            self.tally.add(case, examined.compared, examined.seen)
            if examined.compared and self._is_aiming:
                _aim(max(found.ratio for found in examined.compared.values()))

    def _is_known(self, verdict: Verdict) -> bool:
        if (verdict.kind, verdict.check) in self._told:
            return True
        return is_told_by((*self._told, *self._trails), verdict)

    def _follow(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Note a failing case on its fault's trail, unless it is too near the budget to be worth shrinking to."""
        fault = (verdict.kind, verdict.check)
        trail = self._trails.get(fault)
        if trail is None:
            enough = verdict.ratio**0.5
            found = (case, self.tally.cases, self.tally.seconds)
            self._trails[fault] = _Trail(*found, enough, (verdict.ratio, case), (case, verdict))
            self._shrink_until = self._shrink_until or time.monotonic() + SHRINK_SECONDS
            if self.keeper is not None:
                self.keeper.met(fault, case, verdict)
            return True
        if verdict.ratio < trail.enough:
            return False
        trail.latest = (case, verdict)
        trail.worst = max(trail.worst, (verdict.ratio, case), key=lambda pair: pair[0])
        return True

    def _settle(self) -> None:
        """Turn trails into findings, relations last; the last failing case of each fault is the smallest."""
        for fault, trail in sorted(self._trails.items(), key=lambda pair: pair[0][1] in RELATIONS):
            finding = self._finding(trail)
            final = (finding.verdict.kind, finding.verdict.check)
            is_new = final not in self._told and not is_told_by(self._told, finding.verdict)
            if is_new:
                self.findings[fault] = finding
            if self.keeper is not None:
                self.keeper.settled(fault, finding if is_new else None)
            self._told |= {fault, final}
        self._trails, self._failed, self._shrink_until = {}, {}, None

    def _finding(self, trail: _Trail) -> Finding:
        case, verdict = trail.latest = self._polished(trail)
        failures = [self._again(case, verdict) for _ in range(RERUNS)]
        told = next((failure for failure in failures if failure is not None), verdict)
        rate = sum(failure is not None for failure in failures) / RERUNS
        if 0 < rate < 1:
            sentence = f"{told.sentence} It failed in {rate:.0%} of {RERUNS} reruns."
            told = replace(told, kind="not_repeatable", sentence=sentence)
        else:
            case, told = self._with_its_calls(trail, told, rate)
        trail.latest = (case, told)
        return trail.as_it_is(rate)

    def _polished(self, trail: _Trail) -> tuple[AttentionCase, Verdict]:
        """The trail's last case with lengths as short as they can be while it still fails clearly."""
        latest = trail.latest

        def fails(case: AttentionCase) -> bool:
            nonlocal latest
            found = self._again(case, trail.latest[1])
            if found is not None and found.ratio >= trail.enough:
                latest = (case, found)
                return True
            return False

        polish(trail.latest[0], fails)
        return latest

    def _again(self, case: AttentionCase, verdict: Verdict) -> Verdict | None:
        """Run the case once more: the same fault with the oracles' votes, or None where it passes this time."""
        found = self._examiner.examine(Question.again(case, verdict.check)).verdicts
        return next((v for v in found if (v.kind, v.check) == (verdict.kind, verdict.check)), None)

    def _with_its_calls(self, trail: _Trail, told: Verdict, rate: float) -> tuple[AttentionCase, Verdict]:
        """The case with the calls that it takes to fail in a process that has seen no other case.

        What fails there by itself hangs on no call before it. What does not has met something that the subject kept
        of the campaign's earlier calls; one of the known variations, called before it, may leave the same behind.
        """
        case = trail.latest[0]
        if self._fails_freshly(case.replace(history=()), told.check):
            return case, told if rate else _never_again(told)
        for tried in (case, *_with_one_call(case), *_with_one_call(trail.first)):
            if tried.history and self._fails_freshly(tried, told.check):
                calls = ", ".join(tried.history)
                return tried, _as_history(told, f"It takes these calls before it in the same process: {calls}.")
        if not rate:
            return case, _never_again(told)
        return case, _as_history(told, "It takes calls before it that this campaign made: a new process passes it.")

    def _fails_freshly(self, case: AttentionCase, check: str) -> bool:
        """Whether a check finds the case wrong in a new process, or the process ends; yes where unknown."""
        examined = self._examiner.afresh(Question.again(case, check))
        return examined is None or any(v.check == check or v.kind in ENDS for v in examined.verdicts)


def forward_of(case: AttentionCase) -> AttentionCase:
    """The forward of a case with values and layouts that hide nothing: normal ones, and no two rows alike."""
    q, k, v = (_telling(spec) for spec in (case.q, case.k, case.v))
    return case.replace(operation="forward", q=q, k=k, v=v, dO=TensorSpec(), dLSE=None, needs_grad=INPUTS)


def _telling(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(seed=spec.seed, layout="contiguous" if spec.layout.startswith("expanded") else spec.layout)


def _aim(ratio: float) -> None:
    """Tell Hypothesis how near the budget a case came."""
    if math.isfinite(ratio):
        target(math.log(max(ratio, LEAST_RATIO)), label="log(error/budget)")


def is_told_by(faults: Iterable[Fault], verdict: Verdict) -> bool:
    """Whether a verdict adds nothing to what the faults have said.

    Of a subject that does not repeat itself, nothing that compares two calls says more. A relation that finds numbers
    wrong by more than the budget says what a check has said of them; what is within the budget, and yet not the bits
    that were promised, is a fault of its own.
    """
    own = (verdict.kind, verdict.check)
    compares_calls = verdict.check in RELATIONS and verdict.kind != "output_aliased"
    is_of_calls = compares_calls or verdict.kind in ("history_dependent", "not_repeatable")
    if is_of_calls and any(fault[0] == "not_repeatable" for fault in faults if fault != own):
        return True
    if not compares_calls or BITS in verdict.parts:
        return False
    return any(_sort(kind) == _sort(verdict.kind) for kind, check in faults if check != verdict.check)


def _sort(kind: str) -> str:
    return "wrong_values" if kind == "not_finite" else kind


def _with_one_call(case: AttentionCase) -> list[AttentionCase]:
    return [case.replace(history=(name,)) for name in sorted(VARIATIONS)]


def _as_history(verdict: Verdict, sentence: str) -> Verdict:
    if verdict.kind == "history_dependent":
        return verdict
    return replace(verdict, kind="history_dependent", sentence=f"{verdict.sentence} {sentence}")


def _never_again(verdict: Verdict) -> Verdict:
    sentence = f"{verdict.sentence} It failed in 0% of {RERUNS} reruns."
    return replace(verdict, kind="not_repeatable", sentence=sentence)


@functools.cache
def _exception(kind: str, check: str) -> type[Failure]:
    """A class for each fault: Hypothesis tells bugs apart by it, and shrinks each by itself."""
    return type(f"{FAILURES[kind].__name__}By{check.title().replace('_', '')}", (FAILURES[kind],), {})


def database_folder(folder: str | Path, subject: str, device: str) -> Path:
    """Where a subject's own examples are: Hypothesis knows them by the test's source alone, and drops what passes."""
    return Path(folder) / hashlib.sha256(f"{subject} on {device}".encode()).hexdigest()[:16]


def shared_database(folder: str | Path) -> ExampleDatabase:
    """A database of examples that parallel workers may share: it writes by renaming."""
    return DirectoryBasedExampleDatabase(folder)
