"""Cases examined in worker processes: a case that ends, hangs or poisons its process is a failure like any other."""

from __future__ import annotations

import time
from contextlib import suppress

from harness.examine import Examined, Question
from harness.subject import Subject
from harness.workers.limits import Limits
from harness.workers.nursery import Dead, Nursery, Worker
from harness.workers.worker import Make

LEAST_SECONDS = 2.0
MUCH_SLOWER = 10.0
"""Once a case has hung, one that takes so many times longer than any that ended counts as hung too."""


class Apart:
    """Examines cases in one worker, which remembers what a subject keeps between calls, until it has to be replaced."""

    def __init__(self, make: Make, device: str, limits: Limits | None = None) -> None:
        """Start the first worker. Raises CannotRun where the subject cannot be made in it."""
        self._nursery = Nursery(make, device, limits or Limits())
        self._limits = self._nursery.limits
        self._slowest = 0.0
        self._has_hung = False
        self._worker: Worker | None = self._nursery.hire()
        self.subject: Subject = self._worker.subject

    def examine(self, question: Question) -> Examined:
        """Run a case in the worker; where that dies, this is the failure, and the next case has a new worker."""
        self._worker = self._worker or self._nursery.hire()
        examined, lives = self._ask(self._worker, question)
        if not lives:
            self._worker = None
        elif any(verdict.kind == "out_of_bounds" for verdict in examined.verdicts):
            # Memory that is not its own may be anything: what comes of it later would be laid on another case.
            self._worker.let_go()
            self._worker = None
        return examined

    def afresh(self, question: Question) -> Examined | None:
        """Run a case in a worker of its own."""
        worker = self._nursery.hire()
        examined, lives = self._ask(worker, question)
        if lives:
            worker.let_go()
        return examined

    def close(self) -> None:
        """Let all processes go."""
        if self._worker is not None:
            self._worker.let_go()
            self._worker = None
        with suppress(OSError):
            self._nursery.close()

    def _ask(self, worker: Worker, question: Question) -> tuple[Examined, bool]:
        """What came of the case, and whether the worker lives on."""
        began = time.monotonic()
        try:
            examined = worker.ask(question, self._seconds())
        except Dead as dead:
            self._has_hung = self._has_hung or dead.verdict.kind == "timed_out"
            return Examined((dead.verdict,)), False
        except BaseException:
            # After Ctrl-C the next question must not be given the answer to this one.
            worker.let_go()
            self._worker = None
            raise
        self._slowest = max(self._slowest, time.monotonic() - began)
        return examined, True

    def _seconds(self) -> float:
        """How long a case may take: the first has time to warm up, and shrinking what hangs must not take for ever."""
        if not self._slowest:
            return self._limits.compiling
        if self._has_hung:
            return min(self._limits.seconds, max(LEAST_SECONDS, MUCH_SLOWER * self._slowest))
        return self._limits.seconds
