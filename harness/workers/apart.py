"""Examines cases in worker processes: a case that kills, hangs or corrupts its process is a failure like any other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.judging.examine import Examined, Question
from harness.subject.declaration import Subject
from harness.workers.limits import WorkerLimits
from harness.workers.pool import Worker, WorkerPool
from harness.workers.worker import Make

LEAST_SECONDS = 2.0
PROBE_SECONDS = 30.0
"""Limit of the small call that finds out whether there are gradients, compilations aside."""

MUCH_SLOWER = 10.0
"""Once a case has hung, one that takes ten times longer than any that ended counts as hung too."""


class Apart:
    """Examines cases in one worker, which keeps the subject's state between calls, until it has to be replaced."""

    def __init__(self, make: Make, device: str, limits: WorkerLimits | None = None) -> None:
        """Start the first worker. Raises CannotRun where the subject cannot be made in it."""
        self._pool = WorkerPool(make, device, limits or WorkerLimits())
        self._limits = self._pool.limits
        self._slowest = 0.0
        self._has_hung = False
        self._worker = self._pool.start()
        self.subject: Subject = self._worker.subject

    def examine(self, question: Question) -> Examined:
        """Run a case in the worker; where that dies, that is its failure, and the next case gets a new worker."""
        if self._worker.is_gone:
            self._worker = self._pool.start()
        with self._stopping_on_interrupt():
            examined = self._ask(self._worker, question)
        if any(verdict.kind == "out_of_bounds" for verdict in examined.verdicts):
            # The memory that it wrote may be anything: a later case would be blamed for the damage.
            self._worker.stop()
        return examined

    def examine_fresh(self, question: Question) -> Examined | None:
        """Run a case in a new worker."""
        with self._stopping_on_interrupt():
            worker = self._pool.start()
            try:
                return self._ask(worker, question)
            finally:
                worker.stop()

    def close(self) -> None:
        """End all processes."""
        self._worker.stop()
        with suppress(OSError):
            self._pool.close()

    @contextmanager
    def _stopping_on_interrupt(self) -> Iterator[None]:
        """Ctrl-C may end the fork server, and with it every worker: the next case gets a new one."""
        try:
            yield
        except BaseException:
            self._worker.stop()
            raise

    def _ask(self, worker: Worker, question: Question) -> Examined:
        """Ask the worker, and note how long the case takes: that sets the limit of later cases."""
        began = time.monotonic()
        examined = worker.examine(question, PROBE_SECONDS if question.probes else self._seconds())
        if worker.is_gone:
            self._has_hung = self._has_hung or any(verdict.kind == "timed_out" for verdict in examined.verdicts)
        else:
            self._slowest = max(self._slowest, time.monotonic() - began)
        return examined

    def _seconds(self) -> float:
        """How long a case may take: the first may warm up, and shrinking a case that hangs must not take for ever."""
        if not self._slowest:
            return self._limits.compiling
        if self._has_hung:
            return min(self._limits.seconds, max(LEAST_SECONDS, MUCH_SLOWER * self._slowest))
        return self._limits.seconds
