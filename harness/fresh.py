"""Work done in a process that no call of the subject has touched: what a subject remembers cannot reach it."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

Q = TypeVar("Q")
A = TypeVar("A")

SECONDS = 60.0
"""How long an answer may take before the process counts as lost."""


class Fresh(Generic[Q, A]):
    """Answers questions, each in a child of a process that was forked off when this was made.

    Only a CPU's work can be done so: CUDA does not outlive a fork. Questions and answers are pickled; the work is not,
    so it may be any function of the program's own.
    """

    def __init__(self, work: Callable[[Q], A]) -> None:
        self._connection, theirs = Pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads: the child runs none but its own.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process: int | None = os.fork()
        if self._process == 0:
            self._connection.close()
            _serve(theirs, work)
        theirs.close()

    def ask(self, question: Q) -> A | None:
        """The answer, or None where the work ended its process, or took too long: then all later ones are None too."""
        if self._process is None:
            return None
        answer: A | None = None
        try:
            self._connection.send(question)
            while self._connection.poll(SECONDS):
                is_over, said = self._connection.recv()
                if is_over:
                    return answer
                answer = said
        except (OSError, EOFError):
            pass
        self.close()
        return None

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        process, self._process = self._process, None
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def can_fork(device: str) -> bool:
    """Whether a subject on this device can be run in a fork."""
    return device == "cpu" and hasattr(os, "fork")


def _serve(connection: Connection[Any, Any], work: Callable[[Any], Any]) -> None:
    """Fork a child for each question, until the other end is closed. Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A pool of threads does not outlive a fork: whoever waits for one waits forever.
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            child = os.fork()
            if child == 0:
                _answer(connection, work, question)
            os.waitpid(child, 0)
            connection.send((True, None))
    os._exit(0)


def _answer(connection: Connection[Any, Any], work: Callable[[Any], Any], question: Any) -> None:
    """Send the answer and end the process, whatever happens, without the program's own clean-up."""
    with suppress(BaseException):
        connection.send((False, work(question)))
    os._exit(0)
