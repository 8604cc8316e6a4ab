"""Starts and stops workers: each answers questions until it dies, hangs, or is no longer wanted."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import IO, Any

from harness.errors import CannotRun, HarnessError
from harness.judging.examine import Examined, Question
from harness.judging.verdict import Verdict
from harness.subject.declaration import Subject
from harness.workers.forkserver import Child, ForkServer, ForkServerLost
from harness.workers.last_words import frame_of, last_words
from harness.workers.limits import WorkerLimits
from harness.workers.worker import Make, serve

CHECK = "survives"
"""The check that a call ends in time, and leaves its process alive and its device usable."""


def open_appending() -> IO[bytes]:
    """Open a file without a name; every write goes to its end, wherever another process has moved the offset."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the pool)
    # Not mode "a+b": tempfile opens the file itself, and leaves O_APPEND out.
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


class WorkerDied(Exception):
    """The worker cannot go on; `verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


class WorkerPool:
    """Starts workers for one subject on one device. make: makes the subject, once in each worker.

    The fork server starts here and now: on CUDA, this process must not have initialised the device.
    """

    def __init__(self, make: Make, device: str, limits: WorkerLimits) -> None:
        self._make, self._device, self.limits = make, device, limits
        self._output = open_appending()
        self._server = self._start_server()

    def start(self) -> Worker:
        """Start a worker, in a process that has run nothing. Raises CannotRun where the subject or a fork fails."""
        for _ in range(2):
            try:
                return Worker(self._server, self._server.fork(), self._output, self.limits)
            except ForkServerLost:
                self._server.close()
                self._server = self._start_server()
        raise CannotRun("No worker process can be started here: forks fail, or end at once.")

    def close(self) -> None:
        """End the fork server; stop the workers first."""
        self._server.close()
        self._output.close()

    def _start_server(self) -> ForkServer:
        make, device, limits, output = self._make, self._device, self.limits, self._output.fileno()

        def work(connection: Connection[Any, Any]) -> None:
            serve(connection, make, device, limits, output)

        return ForkServer(work)


class Worker:
    """A process that answers questions. subject: its subject, without the function. is_gone: whether it has ended."""

    def __init__(self, server: ForkServer, child: Child, output: IO[bytes], limits: WorkerLimits) -> None:
        self._server, self._child, self._output, self._limits = server, child, output, limits
        self._printed = _size(output)
        self._at: str | None = None
        self.is_gone = False
        try:
            self.subject: Subject = self._await("ready", limits.compiling)
        except WorkerDied as death:
            raise CannotRun(f"The subject's module ends its process: {death.verdict.sentence}") from death
        except CannotRun:
            self.stop()
            raise

    def examine(self, question: Question, seconds: float) -> Examined:
        """Examine a case within some seconds, compilations aside; where the worker dies, that is the case's failure."""
        try:
            return self._ask(question, seconds)
        except WorkerDied as death:
            return Examined((death.verdict,))
        except BaseException:
            # After Ctrl-C the next question must not get the answer to this one.
            self.stop()
            raise

    def _ask(self, question: Question, seconds: float) -> Examined:
        self._at = None
        self._printed = _size(self._output)
        try:
            self._child.connection.send(question)
        except OSError:
            raise WorkerDied(self._exit_verdict()) from None
        examined: Examined = self._await("examined", seconds)
        return examined

    def stop(self) -> None:
        """End the process where it has not ended yet."""
        if not self.is_gone:
            self.is_gone = True
            with suppress(ForkServerLost):
                self._server.kill(self._child)

    def _await(self, wanted: str, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if not self._child.connection.poll(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    raise WorkerDied(self._verdict("timed_out", f"The call did not end within {seconds:.3g} s."))
                kind, value = self._child.connection.recv()
            except (EOFError, OSError):
                raise WorkerDied(self._exit_verdict()) from None
            if kind == wanted:
                return value
            if kind in ("compiling", "compiled"):
                deadline = time.monotonic() + (self._limits.compiling if kind == "compiling" else seconds)
            self._handle(kind, value)

    def _handle(self, kind: str, value: str) -> None:
        if kind == "at":
            self._at = value
        if kind == "cannot":
            raise CannotRun(value)
        if kind == "broken":
            self.stop()
            raise HarnessError(value)
        if kind == "device_lost":
            self.stop()
            raise WorkerDied(self._verdict("crashed", f"The call left the device unusable: {value}"))

    def _exit_verdict(self) -> Verdict:
        """Say how the process ended whose connection is closed, with what it printed about it and where it was."""
        self.is_gone = True
        try:
            status = self._server.wait(self._child)
        except ForkServerLost:
            return self._verdict("crashed", "The call ended its process.")
        finally:
            self._child.connection.close()
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        printed = self._output_of_case()
        last, frame = last_words(printed, is_signal=status < 0), frame_of(printed)
        about = [how, *([f"after it wrote {last!r}"] if last else []), *([f"at {frame}"] if frame else [])]
        place = None if frame is None else f"{how} at {frame.file}:{frame.line}"
        return self._verdict("crashed", f"The call ended its process: {', '.join(about)}.", place)

    def _verdict(self, kind: str, sentence: str, place: str | None = None) -> Verdict:
        """Make a verdict on the case's own call, or on the further call that a relation makes."""
        if self._at is None:
            return Verdict(kind, CHECK, sentence, place=place)
        return Verdict(kind, self._at, f"In a further call that {self._at} makes: {sentence}", place=place)

    def _output_of_case(self) -> str:
        """Return what was printed since the last question, or since the worker started."""
        self._output.seek(self._printed)
        return self._output.read().decode(errors="replace")


def _size(file: IO[bytes]) -> int:
    return file.seek(0, 2)
