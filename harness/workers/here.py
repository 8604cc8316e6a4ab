"""Examines cases in this process: the fastest way, for subjects that are known to leave it alive."""

from __future__ import annotations

import os
from contextlib import suppress

from harness.errors import CannotRun
from harness.judging.examine import Examined, Question, examine
from harness.subject.declaration import Subject
from harness.workers.limits import WorkerLimits
from harness.workers.pool import WorkerPool


class Here:
    """Examines cases in this process, or in a fork where a new process is asked for; CUDA does not survive a fork."""

    def __init__(self, subject: Subject, device: str) -> None:
        self._subject, self._device = subject, device
        self._pool = WorkerPool(lambda: subject, device, WorkerLimits(seconds=60.0)) if can_fork(device) else None

    def examine(self, question: Question) -> Examined:
        """Run a case."""
        return examine(self._subject, question, self._device)

    def examine_fresh(self, question: Question) -> Examined | None:
        """Run a case in a new process, on the subject as it was when this was made; None where none can run it."""
        if self._pool is None:
            return None
        with suppress(CannotRun):
            worker = self._pool.start()
            try:
                return worker.examine(question, self._pool.limits.seconds)
            finally:
                worker.stop()
        return None

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()


def can_fork(device: str) -> bool:
    """Whether a subject on this device can be run in a fork of this process."""
    return device == "cpu" and hasattr(os, "fork")
