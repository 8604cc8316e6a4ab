"""The exceptions of the harness, and how an exception is shown: in one line, or with its traceback."""

from __future__ import annotations

import traceback


class CannotRun(Exception):
    """The harness cannot do what was asked: one sentence, exit code 2."""


class Refused(Exception):
    """The subject does not support the case: counted and shown, never a failure."""


class HarnessError(Exception):
    """The harness itself broke in another process; the message is what `with_traceback` returned there."""


def first_line(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message."""
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, HarnessError) else f"{type(error).__name__}: {line}"


def with_traceback(error: Exception) -> str:
    """Return the same with the traceback of the exception that is being handled."""
    return f"{first_line(error)}\n{traceback.format_exc()}"
