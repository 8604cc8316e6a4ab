"""Several campaigns on one subject at the same time, told as one; what carries them there and back is a `Carrier`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from harness.campaign.campaign import Campaign, Fault, Finding, Watch, is_told_by, unwatched
from harness.campaign.parallel.interrupts import held_back
from harness.campaign.tally import Tally
from harness.errors import Broken, CannotRun, with_traceback
from harness.judging.relations import RELATIONS
from harness.subject.declaration import Subject

SECONDS_BETWEEN_REPORTS = 0.5
PATIENCE = 60.0
"""Seconds after Ctrl-C in which jobs may end the case that they are at, and settle what they have found."""

MOST_STILLBORN = 3
"""A job that is killed so often in turn before it has run one case is not started again."""

Start = Callable[["Part"], Campaign]
"""Makes the campaign of a part, where the part runs."""


@dataclass(frozen=True)
class Part:
    """A part of a campaign. number: from 0 on. seed: its own. seconds, cases: its limits; None: no limit."""

    number: int
    seed: int
    seconds: float | None
    cases: int | None


@dataclass(frozen=True)
class State:
    """What a part says of itself. met: what it is shrinking, as far as it is. subject: as it is known there by now."""

    tally: Tally = field(default_factory=Tally)
    findings: dict[Fault, Finding] = field(default_factory=dict)
    met: dict[Fault, Finding] = field(default_factory=dict)
    is_shrinking: bool = False
    subject: Subject | None = None

    @classmethod
    def of(cls, campaign: Campaign) -> State:
        """How a campaign stands."""
        card = campaign.subject.card()
        return cls(campaign.tally, campaign.findings, campaign.met, campaign.is_shrinking, card)

    @property
    def is_empty(self) -> bool:
        """Whether no case has been run."""
        return not self.tally.cases and not self.tally.refused


Word = tuple[Literal["at", "over", "cannot", "broken"], Any]
"""What a part says, with a value. at, over: its State. cannot: why it could not run. broken: how the harness broke."""


class Line(Protocol):
    """A part's line to whoever started it."""

    def say(self, word: Word) -> None:
        """Say a word."""

    def is_stopped(self) -> bool:
        """Whether the part was told to settle what it has found, and end."""


class Carrier(Protocol):
    """Runs parts somewhere, each known by a handle, and brings back what they say."""

    def begin(self, part: Part) -> Any:
        """Start a part with `work`; return its handle."""

    def hear(self, seconds: float) -> Iterable[tuple[Any, Word | None]]:
        """What was said within some seconds, and by which handle; None of one that is gone without a last word."""

    def stop(self, handle: Any) -> None:
        """Tell a part to settle and end."""

    def end(self, handle: Any) -> None:
        """End what is left of a part, whatever it is at."""


@dataclass
class Job:
    """A part that runs. stillborn: how many in its place were killed before they had run a case."""

    part: Part
    handle: Any
    stillborn: int = 0
    state: State = field(default_factory=State)


@dataclass
class Jobs:
    """Campaigns in parallel. It reads as one `Campaign` does: subject, device, seed, seconds, tally, findings.

    A job that is killed is replaced for the time that is left; what it had found stands.
    """

    subject: Subject
    device: str
    seed: int
    seconds: float | None
    cases: int | None
    jobs: int
    carrier: Carrier
    watch: Watch = unwatched
    findings: dict[Fault, Finding] = field(default_factory=dict)
    _running: list[Job] = field(default_factory=list)
    _ended: list[State] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _started: int = 0
    _deadline: float | None = None

    def run(self) -> Jobs:
        """Run to the end, or to Ctrl-C, upon which each job settles what it has found; a second one ends them at once.

        Raises CannotRun where a job could not run, or none lived to run a case.
        """
        with held_back() as pressed:
            try:
                for number in range(self.jobs):
                    share = self._share(number)
                    if share != 0:
                        self._begin(number, share)
                while self._running and pressed() < 2:
                    self._listen()
                    if pressed() and not self._wind_up():
                        break
            finally:
                self._end_all()
        self._require_any()
        self.findings = _told_once([*(s.findings for s in self._ended), *(s.met for s in self._ended)])
        return self

    @property
    def tally(self) -> Tally:
        """The account of all jobs together."""
        return Tally.together(state.tally for state in self._states())

    @property
    def is_shrinking(self) -> bool:
        """Whether all jobs are shrinking."""
        return bool(self._running) and all(job.state.is_shrinking for job in self._running)

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""
        states = self._states()
        return len(_told_once([*(state.findings for state in states), *(state.met for state in states)]))

    def _states(self) -> list[State]:
        return [*self._ended, *(job.state for job in self._running)]

    def _share(self, number: int) -> int | None:
        """How many of the cases are this job's."""
        return None if self.cases is None else self.cases // self.jobs + (number < self.cases % self.jobs)

    def _begin(self, number: int, cases: int | None, stillborn: int = 0) -> None:
        left = None if self.seconds is None else self.seconds - (time.monotonic() - self._began)
        part = Part(number, hash((self.seed, self._started)), left, cases)
        self._started += 1
        self._running.append(Job(part, self.carrier.begin(part), stillborn))

    def _listen(self) -> None:
        for handle, word in self.carrier.hear(SECONDS_BETWEEN_REPORTS):
            job = next((job for job in self._running if job.handle is handle), None)
            if job is not None:
                self._heed(job, word)
        self.watch(self)

    def _heed(self, job: Job, word: Word | None) -> None:
        if word is None:
            self._replace(job)
            return
        said, value = word
        if said == "cannot":
            raise CannotRun(value)
        if said == "broken":
            raise Broken(value)
        job.state = value
        self.subject = value.subject or self.subject
        if said == "over":
            self._let_go(job)

    def _replace(self, job: Job) -> None:
        """Start another in the place of a job that was killed, with what it has left to do."""
        self._let_go(job)
        left = None if job.part.cases is None else job.part.cases - job.state.tally.cases
        stillborn = job.stillborn + 1 if job.state.is_empty else 0
        if not self._is_over() and (left is None or left > 0) and stillborn < MOST_STILLBORN:
            self._begin(job.part.number, left, stillborn)

    def _is_over(self) -> bool:
        """Whether nothing is to be started any more."""
        out_of_time = self.seconds is not None and time.monotonic() - self._began >= self.seconds
        return out_of_time or self._deadline is not None

    def _let_go(self, job: Job) -> None:
        self._running.remove(job)
        self._ended.append(job.state)
        self.carrier.end(job.handle)

    def _wind_up(self) -> bool:
        """After Ctrl-C: tell the jobs, once; return whether there is still time to wait for them."""
        if self._deadline is None:
            self._deadline = time.monotonic() + PATIENCE
            for job in self._running:
                self.carrier.stop(job.handle)
        return time.monotonic() < self._deadline

    def _end_all(self) -> None:
        for job in list(self._running):
            self._let_go(job)

    def _require_any(self) -> None:
        """Raise CannotRun where not one case was run, though nobody asked to stop."""
        if self._deadline is None and not self._is_over() and all(state.is_empty for state in self._ended):
            raise CannotRun(f"Each job was killed before it ran a case: is there memory for {self.jobs} at a time?")


def _told_once(found: Iterable[dict[Fault, Finding]]) -> dict[Fault, Finding]:
    """The findings of several campaigns as one would tell them: each fault once, relations last."""
    told: dict[Fault, Finding] = {}
    known: set[Fault] = set()
    pairs = [pair for findings in found for pair in findings.items()]
    for fault, finding in sorted(pairs, key=lambda pair: pair[0][1] in RELATIONS):
        final = (finding.verdict.kind, finding.verdict.check)
        if known.isdisjoint({fault, final}) and not is_told_by(known, finding.verdict):
            told[fault] = finding
        known |= {fault, final}
    return told


def work(part: Part, start: Start, line: Line) -> None:
    """Run a part's campaign, and say how it goes and what came of it."""
    try:
        campaign = start(part)
        campaign.watch = _Report(line)
        campaign.run()
        line.say(("over", State.of(campaign)))
    except CannotRun as problem:
        line.say(("cannot", str(problem)))
    except Exception as error:
        line.say(("broken", with_traceback(error)))


class _Report:
    """Says now and then how a campaign is doing, and at once what it has met; ends it where it is told to stop."""

    def __init__(self, line: Line) -> None:
        self._line, self._next, self._failing = line, 0.0, 0

    def __call__(self, campaign: Campaign) -> None:
        now = time.monotonic()
        if now >= self._next or campaign.failing != self._failing:
            self._next, self._failing = now + SECONDS_BETWEEN_REPORTS, campaign.failing
            self._line.say(("at", State.of(campaign)))
        if self._line.is_stopped():
            raise KeyboardInterrupt
