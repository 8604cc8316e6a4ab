"""Several campaigns on one subject at the same time, which report as one; a `Backend` runs them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from harness.campaign.campaign import Campaign, Watch, unwatched
from harness.campaign.cause import free_key, is_explained, superseded
from harness.campaign.finding import FaultKey, Finding, fault_key
from harness.campaign.known import is_implied, relations_last
from harness.campaign.tally import Tally
from harness.errors import CannotRun, HarnessError, with_traceback
from harness.subject.declaration import Subject

SECONDS_BETWEEN_REPORTS = 0.5
SECONDS_TO_SETTLE = 60.0
"""After Ctrl-C: in which jobs may end the case that they run, and settle what they have found."""

MOST_FAILED_STARTS = 3
"""A job that is killed three times in a row before it has run a case is not started again."""

MakeCampaign = Callable[["Part"], Campaign]
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
    """The state of a part. met: faults that it is shrinking. subject: as the part knows it by now."""

    tally: Tally = field(default_factory=Tally)
    findings: dict[FaultKey, Finding] = field(default_factory=dict)
    met: dict[FaultKey, Finding] = field(default_factory=dict)
    is_shrinking: bool = False
    subject: Subject | None = None

    @classmethod
    def of(cls, campaign: Campaign) -> State:
        """Return the state of a campaign."""
        card = campaign.subject.card()
        return cls(campaign.tally, campaign.findings, campaign.met, campaign.is_shrinking, card)

    @property
    def is_empty(self) -> bool:
        """Whether no case has been run."""
        return not self.tally.cases and not self.tally.refused


PartMessage = tuple[Literal["state", "over", "cannot", "broken"], Any]
"""From a part. state, over: its State. cannot: why it could not run. broken: how the harness itself broke."""


class Channel(Protocol):
    """A part's connection to the process that started it."""

    def send(self, message: PartMessage) -> None:
        """Send a message."""

    def is_stopped(self) -> bool:
        """Whether the part was asked to settle what it has found, and end."""


class Backend(Protocol):
    """Runs parts somewhere, each known by a handle, and receives their messages."""

    def start(self, part: Part) -> Any:
        """Start a part with `run_part`; return its handle."""

    def receive(self, seconds: float) -> Iterable[tuple[Any, PartMessage | None]]:
        """Yield the messages of the next seconds with their handles; None: the part ended without a last message."""

    def stop(self, handle: Any) -> None:
        """Ask a part to settle and end."""

    def kill(self, handle: Any) -> None:
        """End what is left of a part, whatever it does."""


@dataclass
class Job:
    """A part that runs. failed_starts: how many in its place were killed before they had run a case."""

    part: Part
    handle: Any
    failed_starts: int = 0
    state: State = field(default_factory=State)


@dataclass
class Jobs:
    """Campaigns in parallel. It reads as one `Campaign` does: subject, device, seed, seconds, tally, findings.

    A job that is killed is replaced for the time that is left; what it had found is kept.
    """

    subject: Subject
    device: str
    seed: int
    seconds: float | None
    cases: int | None
    jobs: int
    backend: Backend
    findings: dict[FaultKey, Finding] = field(default_factory=dict)
    max_failures: int | None = None
    _running: list[Job] = field(init=False, default_factory=list)
    _ended: list[State] = field(init=False, default_factory=list)
    _began: float = field(init=False, default_factory=time.monotonic)
    _started: int = field(init=False, default=0)
    _deadline: float | None = field(init=False, default=None)

    def run(self, watch: Watch = unwatched) -> Jobs:
        """Run to the end, or to Ctrl-C, upon which each job settles what it has found; a second one ends them at once.

        Raises CannotRun where a job could not run, or none lived to run a case.
        """
        with counting_interrupts() as interrupts:
            try:
                for number in range(self.jobs):
                    share = self._share(number)
                    if share != 0:
                        self._start(number, share)
                while self._running and interrupts() < 2:
                    self._receive()
                    watch(self)
                    has_enough = self.max_failures is not None and self.failing >= self.max_failures
                    if (interrupts() or has_enough) and not self._stop():
                        break
            finally:
                for job in list(self._running):
                    self._end(job)
        self._require_any()
        self.findings = merge_findings([*(s.findings for s in self._ended), *(s.met for s in self._ended)])
        return self

    @property
    def tally(self) -> Tally:
        """The counts of all jobs together."""
        return Tally.together(state.tally for state in self._states())

    @property
    def is_shrinking(self) -> bool:
        """Whether all jobs are shrinking."""
        return bool(self._running) and all(job.state.is_shrinking for job in self._running)

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""
        states = self._states()
        return len(merge_findings([*(state.findings for state in states), *(state.met for state in states)]))

    def _states(self) -> list[State]:
        return [*self._ended, *(job.state for job in self._running)]

    def _share(self, number: int) -> int | None:
        """How many of the cases are this job's."""
        return None if self.cases is None else self.cases // self.jobs + (number < self.cases % self.jobs)

    def _start(self, number: int, cases: int | None, failed_starts: int = 0) -> None:
        left = None if self.seconds is None else self.seconds - (time.monotonic() - self._began)
        part = Part(number, hash((self.seed, self._started)), left, cases)
        self._started += 1
        self._running.append(Job(part, self.backend.start(part), failed_starts))

    def _receive(self) -> None:
        for handle, message in self.backend.receive(SECONDS_BETWEEN_REPORTS):
            job = next((job for job in self._running if job.handle is handle), None)
            if job is not None:
                self._handle(job, message)

    def _handle(self, job: Job, message: PartMessage | None) -> None:
        if message is None:
            self._replace(job)
            return
        kind, value = message
        if kind == "cannot":
            raise CannotRun(value)
        if kind == "broken":
            raise HarnessError(value)
        job.state = value
        self.subject = value.subject or self.subject
        if kind == "over":
            self._end(job)

    def _replace(self, job: Job) -> None:
        """Start another job in place of one that was killed, with what it has left to do."""
        self._end(job)
        left = None if job.part.cases is None else job.part.cases - job.state.tally.cases
        failed_starts = job.failed_starts + 1 if job.state.is_empty else 0
        if not self._is_over() and (left is None or left > 0) and failed_starts < MOST_FAILED_STARTS:
            self._start(job.part.number, left, failed_starts)

    def _is_over(self) -> bool:
        """Whether no job is to be started any more."""
        out_of_time = self.seconds is not None and time.monotonic() - self._began >= self.seconds
        return out_of_time or self._deadline is not None

    def _end(self, job: Job) -> None:
        self._running.remove(job)
        self._ended.append(job.state)
        self.backend.kill(job.handle)

    def _stop(self) -> bool:
        """After Ctrl-C: ask the jobs to stop, once; return whether there is still time to wait for them."""
        if self._deadline is None:
            self._deadline = time.monotonic() + SECONDS_TO_SETTLE
            for job in self._running:
                self.backend.stop(job.handle)
        return time.monotonic() < self._deadline

    def _require_any(self) -> None:
        """Raise CannotRun where not one case was run, though nobody asked to stop."""
        if self._deadline is None and not self._is_over() and all(state.is_empty for state in self._ended):
            raise CannotRun(f"Each job was killed before it ran a case: is there memory for {self.jobs} at a time?")


AnyCampaign = Campaign | Jobs
"""What prints, writes and watches campaigns takes either."""


def merge_findings(found: Iterable[dict[FaultKey, Finding]]) -> dict[FaultKey, Finding]:
    """Return the findings of several campaigns as one would report them: each fault once, relations last."""
    merged: dict[FaultKey, Finding] = {}
    known: set[FaultKey] = set()
    for fault, finding in relations_last(item for findings in found for item in findings.items()):
        is_known = is_explained(merged, finding.shrunk, finding.verdict)
        if not is_known and not is_implied(finding.verdict, known):
            for old in superseded(merged, fault, finding):
                del merged[old]
            merged[fault if fault not in merged else free_key(finding.verdict, merged)] = finding
        known |= {fault, fault_key(finding.verdict)}
    return merged


def run_part(part: Part, make: MakeCampaign, channel: Channel) -> None:
    """Run a part's campaign, and send its state now and then and at the end."""
    try:
        campaign = make(part)
        campaign.run(_Reporter(channel))
        channel.send(("over", State.of(campaign)))
    except CannotRun as problem:
        channel.send(("cannot", str(problem)))
    except Exception as error:
        channel.send(("broken", with_traceback(error)))


class _Reporter:
    """Sends a campaign's state now and then, and at once when it meets a fault; ends it when it is asked to stop."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._next, self._failing = channel, 0.0, 0

    def __call__(self, campaign: Campaign) -> None:
        now = time.monotonic()
        if now >= self._next or campaign.failing != self._failing:
            self._next, self._failing = now + SECONDS_BETWEEN_REPORTS, campaign.failing
            self._channel.send(("state", State.of(campaign)))
        if self._channel.is_stopped():
            raise KeyboardInterrupt


@contextmanager
def counting_interrupts() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C in place of raising KeyboardInterrupt; yield what returns the count.

    Only the main thread receives Ctrl-C: in any other the count stays 0.
    """
    count = 0

    def note(number: int, frame: object) -> None:
        nonlocal count
        count += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: count
    finally:
        signal.signal(signal.SIGINT, before)
