"""Cases examined in worker processes: a case that ends, hangs or poisons its process is a failure like any other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.judging.examine import Examined, Question
from harness.subject.declaration import Subject
from harness.workers.limits import Limits
from harness.workers.pool import Nursery, Worker
from harness.workers.worker import Make

LEAST_SECONDS = 2.0
PROBE_SECONDS = 30.0
"""For the small call that asks whether there are gradients, compilations aside."""

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
        self._worker = self._nursery.hire()
        self.subject: Subject = self._worker.subject

    def examine(self, question: Question) -> Examined:
        """Run a case in the worker; where that dies, this is the failure, and the next case has a new worker."""
        if self._worker.is_gone:
            self._worker = self._nursery.hire()
        with self._anew_after_ctrl_c():
            examined = self._ask(self._worker, question)
        if any(verdict.kind == "out_of_bounds" for verdict in examined.verdicts):
            # Memory that is not its own may be anything: what comes of it later would be laid on another case.
            self._worker.let_go()
        return examined

    def afresh(self, question: Question) -> Examined | None:
        """Run a case in a worker of its own."""
        with self._anew_after_ctrl_c():
            worker = self._nursery.hire()
            try:
                return self._ask(worker, question)
            finally:
                worker.let_go()

    def close(self) -> None:
        """Let all processes go."""
        self._worker.let_go()
        with suppress(OSError):
            self._nursery.close()

    @contextmanager
    def _anew_after_ctrl_c(self) -> Iterator[None]:
        """Ctrl-C may cost the zygote, and with it every worker: the next case has a new one."""
        try:
            yield
        except BaseException:
            self._worker.let_go()
            raise

    def _ask(self, worker: Worker, question: Question) -> Examined:
        """What came of the case, and how long it took, for those to come."""
        began = time.monotonic()
        examined = worker.examine(question, PROBE_SECONDS if question.probes else self._seconds())
        if worker.is_gone:
            self._has_hung = self._has_hung or any(verdict.kind == "timed_out" for verdict in examined.verdicts)
        else:
            self._slowest = max(self._slowest, time.monotonic() - began)
        return examined

    def _seconds(self) -> float:
        """How long a case may take: the first has time to warm up, and shrinking what hangs must not take for ever."""
        if not self._slowest:
            return self._limits.compiling
        if self._has_hung:
            return min(self._limits.seconds, max(LEAST_SECONDS, MUCH_SLOWER * self._slowest))
        return self._limits.seconds
