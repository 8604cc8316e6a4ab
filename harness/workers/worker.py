"""What a worker does: it takes questions one after the other, and answers each with what came of the case."""

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
from harness.workers.limits import Limits

Said = Literal["ready", "at", "compiling", "compiled", "examined", "poisoned", "cannot", "broken"]
"""What a worker says, each with a value.

ready: the Subject, without its function. at: the relation that calls the subject next. compiling, compiled: None,
around a compilation. examined: Examined. poisoned: why the device is lost to this process. cannot: why there is
no subject, or why it cannot be asked here. broken: why there is no answer.
"""

Make = Callable[[], Subject]


def serve(connection: Connection[Any, Any], make: Make, device: str, limits: Limits, output: int) -> None:
    """Make the subject, say so, and answer until the other end is closed. output: where what is printed goes."""
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
    except Exception as error:
        connection.send(("cannot", f"The subject cannot be made: {first_line(error)}"))
        return
    connection.send(("ready", subject.card()))
    with _announced(connection):
        while True:
            try:
                question = connection.recv()
            except EOFError:
                return
            if not _answer(connection, subject, question, device):
                return


def _print_to(output: int) -> None:
    """Let everything that is printed here, by Python or by a library, go to one file."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  (for good)
    # A stack of Python's frames would drown the last words of a library that aborts.
    faulthandler.disable()


def _answer(connection: Connection[Any, Any], subject: Subject, question: Question, device: str) -> bool:
    """Answer, and say whether this process can go on."""

    def at(relation: str) -> None:
        connection.send(("at", relation))

    try:
        said: tuple[Said, object] = ("examined", examine(subject, question, device, at))
    except CannotRun as error:
        said = ("cannot", str(error))
    except Exception as error:
        said = ("broken", with_traceback(error))
    poison = _poison(device) if _may_be_poisoned(said[1]) else None
    connection.send(said if poison is None else ("poisoned", poison))
    return poison is None


def _may_be_poisoned(said: object) -> bool:
    return not isinstance(said, Examined) or any(verdict.kind == "raised" for verdict in said.verdicts)


def _poison(device: str) -> str | None:
    """Why nothing runs on the device any more in this process, as after an illegal access; None where it does."""
    if device != "cuda":
        return None
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return first_line(error)
    return None


@contextmanager
def _announced(connection: Connection[Any, Any]) -> Iterator[None]:
    """Say when Triton compiles: that takes time of its own."""
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
