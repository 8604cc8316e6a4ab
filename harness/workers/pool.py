"""Workers hired and let go: each answers questions until it dies, hangs, or is no longer wanted."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import IO, Any

from harness.errors import Broken, CannotRun
from harness.judging.examine import Examined, Question
from harness.judging.verdict import Verdict
from harness.subject.declaration import Subject
from harness.workers.forkserver import Child, Lost, Zygote
from harness.workers.limits import Limits
from harness.workers.worker import Make, serve

CHECK = "survives"
"""The check, as verdicts name it, that a call leaves its process alive, its device usable, and ends in time."""


def appended() -> IO[bytes]:
    """A file without a name in which every write goes to the end, wherever another process has moved the offset."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the nursery)
    # Not mode "a+b": tempfile opens the file itself, and leaves O_APPEND out.
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


class Dead(Exception):
    """The worker is of no use any more; `verdict` says what became of it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


class Nursery:
    """Hires workers for one subject on one device. make: makes the subject, in each worker anew.

    The zygote is forked off here and now: on CUDA, this process must not have woken the device.
    """

    def __init__(self, make: Make, device: str, limits: Limits) -> None:
        self._make, self._device, self.limits = make, device, limits
        self._output = appended()
        self._zygote = self._fork()

    def hire(self) -> Worker:
        """A worker whose process has run nothing. Raises CannotRun where there is no subject, or no process."""
        for _ in range(2):
            try:
                return Worker(self._zygote, self._zygote.child(), self._output, self.limits)
            except Lost:
                self._zygote.close()
                self._zygote = self._fork()
        raise CannotRun("No worker process can be started here: forks fail, or end at once.")

    def close(self) -> None:
        """End the zygote; let the workers go before."""
        self._zygote.close()
        self._output.close()

    def _fork(self) -> Zygote:
        make, device, limits, output = self._make, self._device, self.limits, self._output.fileno()

        def work(connection: Connection[Any, Any]) -> None:
            serve(connection, make, device, limits, output)

        return Zygote(work)


class Worker:
    """A process that answers. subject: what it made, without its function. is_gone: whether it has ended."""

    def __init__(self, zygote: Zygote, child: Child, output: IO[bytes], limits: Limits) -> None:
        self._zygote, self._child, self._output, self._limits = zygote, child, output, limits
        self._printed = _size(output)
        self._at: str | None = None
        self.is_gone = False
        try:
            self.subject: Subject = self._await("ready", limits.compiling)
        except Dead as dead:
            raise CannotRun(f"The subject's module ends its process: {dead.verdict.sentence}") from dead
        except CannotRun:
            self.let_go()
            raise

    def examine(self, question: Question, seconds: float) -> Examined:
        """Examine a case within some seconds, compilations aside; what ends this worker is what came of the case."""
        try:
            return self._ask(question, seconds)
        except Dead as dead:
            return Examined((dead.verdict,))
        except BaseException:
            # After Ctrl-C the next question must not be given the answer to this one.
            self.let_go()
            raise

    def _ask(self, question: Question, seconds: float) -> Examined:
        self._at = None
        try:
            self._child.connection.send(question)
        except OSError:
            raise Dead(self._obituary()) from None
        examined: Examined = self._await("examined", seconds)
        return examined

    def let_go(self) -> None:
        """End the process, where it has not ended yet."""
        if not self.is_gone:
            self.is_gone = True
            with suppress(Lost):
                self._zygote.end(self._child)

    def _await(self, wanted: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if not self._child.connection.poll(max(0.0, deadline - time.monotonic())):
                    self.let_go()
                    raise Dead(self._verdict("timed_out", f"The call did not end within {seconds:.3g} s."))
                said, value = self._child.connection.recv()
            except (EOFError, OSError):
                raise Dead(self._obituary()) from None
            if said == wanted:
                return value
            if said in ("compiling", "compiled"):
                deadline = time.monotonic() + (self._limits.compiling if said == "compiling" else seconds)
            self._heed(said, value)

    def _heed(self, said: str, value: str) -> None:
        if said == "at":
            self._at = value
        if said == "cannot":
            raise CannotRun(value)
        if said == "broken":
            self.let_go()
            raise Broken(value)
        if said == "poisoned":
            self.let_go()
            raise Dead(self._verdict("crashed", f"The call left the device unusable: {value}"))

    def _obituary(self) -> Verdict:
        """How a process ended whose connection is closed, and the last that it printed."""
        self.is_gone = True
        try:
            status = self._zygote.status(self._child)
        except Lost:
            return self._verdict("crashed", "The call ended its process.")
        finally:
            self._child.connection.close()
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        last = self._last_line()
        return self._verdict(
            "crashed", f"The call ended its process: {how}{f', after it wrote {last!r}' if last else ''}."
        )

    def _verdict(self, kind: str, sentence: str) -> Verdict:
        """Of the case's own call, or of a relation's further one."""
        if self._at is None:
            return Verdict(kind, CHECK, sentence)
        return Verdict(kind, self._at, f"In a further call that {self._at} makes: {sentence}")

    def _last_line(self) -> str:
        """The last line that was printed since the worker began, cut to what reads well in a sentence."""
        self._output.seek(self._printed)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else ""


def _size(file: IO[bytes]) -> int:
    return file.seek(0, 2)
