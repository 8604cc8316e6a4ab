"""A process that is forked before anything has run, and forks again for each worker that is asked for.

A worker then starts in milliseconds, with everything imported, and in the state of a program that has run nothing:
it remembers no call, and owns no CUDA context.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch

Serve = Callable[["Connection[Any, Any]"], None]
"""What a child does with its connection; it ends when this returns."""

SECONDS_TO_ANSWER = 30.0
"""In which the fork server must answer: longer is a process that the kernel cannot end."""

_PID = struct.Struct("i")
_FORK, _WAIT = b"f", b"w"


class ForkServerLost(Exception):
    """The fork server itself has ended."""


@dataclass
class Child:
    """A child of the fork server: its process, and the connection to it."""

    pid: int
    connection: Connection[Any, Any]


class ForkServer:
    """Forks from this process when made. serve: what every child does; closures are fine, since nothing is pickled.

    Children end with this process. Where this process has initialised CUDA already, children cannot use it.
    """

    def __init__(self, serve: Serve) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(SECONDS_TO_ANSWER)
        self._pid = _fork()
        if self._pid == 0:
            self._control.close()
            _serve_forks(theirs, serve)
        theirs.close()

    def fork(self) -> Child:
        """Fork a child. Raises ForkServerLost."""
        ours, theirs = socket.socketpair()
        with theirs, self._exchange():
            socket.send_fds(self._control, [_FORK], [theirs.fileno()])
            pid = self._receive_number()
        return Child(pid, Connection(ours.detach()))

    def kill(self, child: Child) -> int:
        """Kill a child that has not ended yet, and return its exit status: negative is a signal."""
        child.connection.close()
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        return self.wait(child)

    def wait(self, child: Child) -> int:
        """Wait for a child to end; return its exit status: negative is a signal. Raises ForkServerLost."""
        with self._exchange():
            self._control.sendall(_WAIT + _PID.pack(child.pid))
            return self._receive_number()

    def close(self) -> None:
        """End the fork server. Its children must have been ended, except where this process was killed."""
        if self._pid is None:
            return
        pid, self._pid = self._pid, None
        self._control.close()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """A request and its answer. Interrupted in between, as by Ctrl-C, the server is lost: answers would shift."""
        try:
            yield
        except OSError as error:
            raise ForkServerLost from error
        except BaseException:
            self._control.close()
            raise

    def _receive_number(self) -> int:
        answer = self._control.recv(_PID.size)
        if len(answer) < _PID.size:
            raise OSError("the fork server has ended")
        return int(_PID.unpack(answer)[0])


def _fork() -> int | None:
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork in a process with threads: the child runs none but its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _serve_forks(control: socket.socket, serve: Serve) -> NoReturn:
    """Fork and wait as asked, until the other end is closed; then end the children that are left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool of threads does not outlive a fork: whoever waits for one waits forever.
    torch.set_num_threads(1)
    children: set[int] = set()
    with suppress(OSError):
        while True:
            request, handles, _, _ = socket.recv_fds(control, 1 + _PID.size, 1)
            if not request:
                break
            if request == _FORK:
                answer = _fork_child(control, handles[0], serve)
                children.add(answer)
            else:
                child = _PID.unpack(request[1:])[0]
                answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                children.discard(child)
            control.sendall(_PID.pack(answer))
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(0)


def _fork_child(control: socket.socket, handle: int, serve: Serve) -> int:
    pid = _fork()
    if pid:
        os.close(handle)
        return int(pid)
    control.close()
    # Whatever happens: the program's own clean-up must not run in its copy.
    try:
        serve(Connection(handle))
    except BaseException:
        os._exit(1)
    os._exit(0)
