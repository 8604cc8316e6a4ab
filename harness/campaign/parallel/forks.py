"""Parts of a campaign in processes of this machine, each a fork of this one."""

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

from harness.campaign.parallel.jobs import MakeCampaign, Part, PartMessage, run_part

STOP = "stop"


@dataclass(eq=False)
class Fork:
    """A process that runs a part, and the connection to it."""

    pid: int
    connection: Connection[Any, Any]


class Forks:
    """A backend that runs parts in forks of this process. make: makes a part's campaign, in the fork."""

    def __init__(self, make: MakeCampaign) -> None:
        self._make = make
        self._forks: list[Fork] = []

    def start(self, part: Part) -> Fork:
        """Fork."""
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            for connection in (ours, *(fork.connection for fork in self._forks)):
                connection.close()
            _run(theirs, part, self._make)
        theirs.close()
        self._forks.append(Fork(pid, ours))
        return self._forks[-1]

    def receive(self, seconds: float) -> Iterator[tuple[Fork, PartMessage | None]]:
        """Yield one message of each fork that sends any within some seconds."""
        ready = wait([fork.connection for fork in self._forks], timeout=seconds)
        for fork in [fork for fork in self._forks if fork.connection in ready]:
            try:
                yield fork, fork.connection.recv()
            except (EOFError, OSError):
                yield fork, None

    def stop(self, fork: Fork) -> None:
        """Ask a fork to settle and end."""
        with suppress(OSError):
            fork.connection.send(STOP)

    def kill(self, fork: Fork) -> None:
        """Kill the process where it still runs; its own children notice and end."""
        self._forks.remove(fork)
        fork.connection.close()
        with suppress(ProcessLookupError):
            os.kill(fork.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(fork.pid, 0)


class PipeChannel:
    """A part's end of a connection. Where the other end is closed, the part has no purpose, and its process ends."""

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

    def send(self, message: object) -> None:
        """Send what the other end expects."""
        try:
            self._connection.send(message)
        except OSError:
            os._exit(1)

    def is_stopped(self) -> bool:
        """Whether the part was asked to stop."""
        return self._stopped.is_set()


def _run(connection: Connection[Any, Any], part: Part, make: MakeCampaign) -> NoReturn:
    """Run a part; whatever happens, skip the program's own clean-up."""
    # Ctrl-C reaches all processes of a terminal: the process that started this one decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_part(part, make, PipeChannel(connection))
    finally:
        os._exit(0)
