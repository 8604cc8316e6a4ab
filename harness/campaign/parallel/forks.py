"""Parts of a campaign in processes of this machine, each forked off this one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from harness.campaign.parallel.jobs import Part, Start, Word, work

STOP = "stop"


@dataclass(eq=False)
class Fork:
    """A process that runs a part, and the connection to it."""

    pid: int
    connection: Connection[Any, Any]


class Forks:
    """Carries parts to forks of this process. start: makes a part's campaign, in its own process."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._forks: list[Fork] = []

    def begin(self, part: Part) -> Fork:
        """Fork."""
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            for connection in (ours, *(fork.connection for fork in self._forks)):
                connection.close()
            _run(theirs, part, self._start)
        theirs.close()
        self._forks.append(Fork(pid, ours))
        return self._forks[-1]

    def hear(self, seconds: float) -> Iterator[tuple[Fork, Word | None]]:
        """What was said within some seconds: one word of each that has spoken."""
        heard = wait([fork.connection for fork in self._forks], timeout=seconds)
        for fork in [fork for fork in self._forks if fork.connection in heard]:
            try:
                yield fork, fork.connection.recv()
            except (EOFError, OSError):
                yield fork, None

    def stop(self, fork: Fork) -> None:
        """Ask for the end."""
        with suppress(OSError):
            fork.connection.send(STOP)

    def end(self, fork: Fork) -> None:
        """Kill the process where it is still there; its own children see that and end."""
        self._forks.remove(fork)
        fork.connection.close()
        with suppress(ProcessLookupError):
            os.kill(fork.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(fork.pid, 0)


class Wire:
    """A part's end of a connection. Where nobody is at the other end any more, its process has no purpose, and ends."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._stopped = threading.Event()
        # A thread, since the process that started this one may be killed while a case runs for a minute.
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while self._connection.recv() == STOP:
                self._stopped.set()
        except (EOFError, OSError):
            os._exit(1)

    def say(self, word: Word) -> None:
        """Say a word."""
        self.send(word)

    def send(self, value: object) -> None:
        """Send whatever the other end awaits."""
        try:
            self._connection.send(value)
        except OSError:
            os._exit(1)

    def is_stopped(self) -> bool:
        """Whether the end was asked for."""
        return self._stopped.is_set()


def _run(connection: Connection[Any, Any], part: Part, start: Start) -> NoReturn:
    """Run a part; whatever happens, the program's own clean-up is not ours."""
    # Ctrl-C reaches all processes of a terminal: what is to end is said by the one that started them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(part, start, Wire(connection))
    finally:
        os._exit(0)
