"""The exceptions of the harness, and what an exception says for a person: in one line, or with its traceback."""

from __future__ import annotations

import traceback


class CannotRun(Exception):
    """The harness cannot do what was asked: one sentence, exit code 2."""


class Refused(Exception):
    """The subject says that it does not support the case: counted and shown, never a failure."""


class Broken(Exception):
    """The harness itself broke in another process: what `with_traceback` says of it there."""


def first_line(error: Exception) -> str:
    """The type of an exception and the first line of what it says."""
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, Broken) else f"{type(error).__name__}: {said}"


def with_traceback(error: Exception) -> str:
    """The same, and its traceback: for an exception that is being handled."""
    return f"{first_line(error)}\n{traceback.format_exc()}"
