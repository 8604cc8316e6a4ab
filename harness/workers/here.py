"""Cases examined in this very process: the fastest way, for subjects that are known to leave it alive."""

from __future__ import annotations

import os
from contextlib import suppress

from harness.errors import CannotRun
from harness.judging.examine import Examined, Question, examine
from harness.subject.declaration import Subject
from harness.workers.limits import Limits
from harness.workers.pool import Nursery


class Here:
    """Examines cases on a subject in this process; what is asked afresh in a fork, which CUDA does not survive."""

    def __init__(self, subject: Subject, device: str) -> None:
        self._subject, self._device = subject, device
        self._nursery = Nursery(lambda: subject, device, Limits(seconds=60.0)) if can_fork(device) else None

    def examine(self, question: Question) -> Examined:
        """Run a case."""
        return examine(self._subject, question, self._device)

    def afresh(self, question: Question) -> Examined | None:
        """Run a case in a process that has the subject as it was when this was made; None where no such can run it."""
        if self._nursery is None:
            return None
        with suppress(CannotRun):
            worker = self._nursery.hire()
            try:
                return worker.examine(question, self._nursery.limits.seconds)
            finally:
                worker.let_go()
        return None

    def close(self) -> None:
        """End the processes."""
        if self._nursery is not None:
            self._nursery.close()


def can_fork(device: str) -> bool:
    """Whether a subject on this device can be run in a fork of this process."""
    return device == "cpu" and hasattr(os, "fork")
