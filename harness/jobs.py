"""Several campaigns on one subject at the same time, each in a process with a worker of its own, told as one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from harness.campaign import Campaign, Fault, Finding, Watch, unwatched
from harness.subject import Subject
from harness.tally import Tally
from harness.verdict import CannotRun

SECONDS_BETWEEN_REPORTS = 0.5
PATIENCE = 60.0
"""Seconds after its time is up in which a job shrinks and settles what it has found."""

Start = Callable[["Part"], Campaign]
"""Makes the campaign of a part, in the part's own process."""


@dataclass(frozen=True)
class Part:
    """A part of a campaign. number: from 0 on. seed: its own. seconds, cases: its limits; None: no limit."""

    number: int
    seed: int
    seconds: float | None
    cases: int | None


@dataclass
class Job:
    """A part that runs: its process, and what it has said of itself."""

    part: Part
    pid: int
    connection: Connection[Any, Any]
    tally: Tally = field(default_factory=Tally)
    failing: int = 0
    is_shrinking: bool = False


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
    start: Start
    watch: Watch = unwatched
    findings: dict[Fault, Finding] = field(default_factory=dict)
    _running: list[Job] = field(default_factory=list)
    _ended: list[Tally] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _started: int = 0

    def run(self) -> Jobs:
        """Run to the end, or to Ctrl-C, upon which each job settles what it is at."""
        for _ in range(self.jobs):
            share = None if self.cases is None else -(-self.cases // self.jobs)
            self._running.append(self._begin(share))
        try:
            while self._running:
                self._listen()
        except KeyboardInterrupt:
            self._wind_up()
        return self

    @property
    def tally(self) -> Tally:
        """The account of all jobs together."""
        return Tally.together([*self._ended, *(job.tally for job in self._running)])

    @property
    def is_shrinking(self) -> bool:
        """Whether all jobs are shrinking."""
        return bool(self._running) and all(job.is_shrinking for job in self._running)

    @property
    def failing(self) -> int:
        """Faults met so far, those still being shrunk among them."""
        return max([len(self.findings), *(job.failing for job in self._running)])

    def _begin(self, cases: int | None) -> Job:
        left = None if self.seconds is None else self.seconds - (time.monotonic() - self._began)
        part = Part(self._started, hash((self.seed, self._started)), left, cases)
        self._started += 1
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for job in self._running:
                job.connection.close()
            _work(theirs, part, self.start)
        theirs.close()
        return Job(part, pid, ours)

    def _listen(self) -> None:
        heard = wait([job.connection for job in self._running], timeout=SECONDS_BETWEEN_REPORTS)
        for job in [job for job in self._running if job.connection in heard]:
            self._hear(job)
        self.watch(self)

    def _hear(self, job: Job) -> None:
        try:
            said, value = job.connection.recv()
        except (EOFError, OSError):
            self._replace(job)
            return
        if said == "cannot":
            self._end_all()
            raise CannotRun(value)
        if said == "at":
            job.tally, job.failing, job.is_shrinking = value
        else:
            job.tally, findings = value
            self.findings |= {fault: found for fault, found in findings.items() if fault not in self.findings}
            self._let_go(job)

    def _replace(self, job: Job) -> None:
        """Start another in the place of a job that was killed, with what it has left to do."""
        self._let_go(job)
        left = None if job.part.cases is None else job.part.cases - job.tally.cases
        is_over = self.seconds is not None and time.monotonic() - self._began >= self.seconds
        if not is_over and (left is None or left > 0) and job.tally.cases > 0:
            self._running.append(self._begin(left))

    def _let_go(self, job: Job) -> None:
        self._running.remove(job)
        self._ended.append(job.tally)
        job.connection.close()
        with suppress(ChildProcessError):
            os.waitpid(job.pid, 0)

    def _wind_up(self) -> None:
        """After Ctrl-C, which the jobs have met too: hear what they have found; a second one ends them at once."""
        until = time.monotonic() + PATIENCE
        try:
            while self._running and time.monotonic() < until:
                self._listen()
        except KeyboardInterrupt:
            pass
        self._end_all()

    def _end_all(self) -> None:
        for job in list(self._running):
            with suppress(ProcessLookupError):
                os.kill(job.pid, signal.SIGKILL)
            self._let_go(job)


def _work(connection: Connection[Any, Any], part: Part, start: Start) -> NoReturn:
    """Run a part's campaign and say what came of it; whatever happens, the program's own clean-up is not ours."""
    status = 1
    try:
        campaign = start(part)
        campaign.watch = _Report(connection)
        campaign.run()
        connection.send(("over", (campaign.tally, campaign.findings)))
        status = 0
    except CannotRun as problem:
        with suppress(OSError):
            connection.send(("cannot", str(problem)))
    except BaseException:
        with suppress(BaseException):
            import traceback

            traceback.print_exc()
    finally:
        os._exit(status)


class _Report:
    """Says now and then how a campaign is doing; where nobody listens any more, this process has no purpose."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection, self._next = connection, 0.0

    def __call__(self, campaign: Campaign) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SECONDS_BETWEEN_REPORTS
        try:
            self._connection.send(("at", (campaign.tally, campaign.failing, campaign.is_shrinking)))
        except OSError:
            os._exit(1)
