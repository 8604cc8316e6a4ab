"""What a worker does: it takes questions one after the other, runs their cases, and answers with the results."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Literal

import torch

from harness.errors import CannotRun, first_line, with_traceback
from harness.judging.examine import Examined, Question, examine
from harness.running.devices import prepare
from harness.subject.declaration import Subject
from harness.workers.limits import WorkerLimits

WorkerMessage = tuple[
    Literal["ready", "at", "compiling", "compiled", "examined", "device_lost", "cannot", "broken"], Any
]
"""From a worker, with a value.

ready: the Subject, without its function. at: the relation that calls the subject next. compiling, compiled: None,
around a compilation. examined: Examined. device_lost: why this process cannot use the device any more. cannot: why
there is no subject, or why it cannot be asked here. broken: how the harness itself broke.
"""

Make = Callable[[], Subject]


def serve(connection: Connection[Any, Any], make: Make, device: str, limits: WorkerLimits, output: int) -> None:
    """Make the subject, report it, and answer until the other end is closed. output: where prints go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _print_to(output)
    torch.set_num_threads(1)
    try:
        prepare(device)
        limits.apply(device)
        subject = make()
    except CannotRun as error:
        connection.send(("cannot", str(error)))
        return
    except (Exception, SystemExit) as error:
        connection.send(("cannot", f"The subject cannot be made: {first_line(error)}"))
        return
    connection.send(("ready", subject.card()))
    with _announcing_compilations(connection):
        while True:
            try:
                question = connection.recv()
            except EOFError:
                return
            if not _answer(connection, subject, question, device):
                return


def _print_to(output: int) -> None:
    """Send everything that Python or a library prints here to one file."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  (for good)
    # The stack names the line that a signal ends; `last_words` keeps it apart from a library's last message.
    faulthandler.enable(sys.stderr, all_threads=False)


def _answer(connection: Connection[Any, Any], subject: Subject, question: Question, device: str) -> bool:
    """Answer; return whether this process can go on."""

    def at(relation: str) -> None:
        connection.send(("at", relation))

    try:
        message: WorkerMessage = ("examined", examine(subject, question, device, at))
    except CannotRun as error:
        message = ("cannot", str(error))
    except Exception as error:
        message = ("broken", with_traceback(error))
    lost = _device_error(device) if _may_have_lost_device(message[1]) else None
    connection.send(message if lost is None else ("device_lost", lost))
    return lost is None


def _may_have_lost_device(value: object) -> bool:
    return not isinstance(value, Examined) or any(verdict.kind == "raised" for verdict in value.verdicts)


def _device_error(device: str) -> str | None:
    """Why nothing runs on the device any more in this process, as after an illegal access; None where it does."""
    if device != "cuda":
        return None
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return first_line(error)
    return None


@contextmanager
def _announcing_compilations(connection: Connection[Any, Any]) -> Iterator[None]:
    """Report when Triton compiles: that has a time limit of its own."""
    hooks = _hooks()
    if hooks is None:
        yield
        return
    before, after = "jit_cache_hook", "jit_post_compile_hook"
    setattr(hooks, before, lambda **about: connection.send(("compiling", None)))
    setattr(hooks, after, lambda **about: connection.send(("compiled", None)))
    try:
        yield
    finally:
        setattr(hooks, before, None)
        setattr(hooks, after, None)


def _hooks() -> Any:
    """Where Triton keeps its hooks, from 3.4 on; None where it has none."""
    try:
        from triton import knobs
    except ImportError:
        return None
    runtime = knobs.runtime
    return runtime if hasattr(runtime, "jit_cache_hook") and hasattr(runtime, "jit_post_compile_hook") else None
