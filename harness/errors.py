"""What an exception says, for a person: in one line, or with how it came about."""

from __future__ import annotations

import traceback


class Broken(Exception):
    """The harness itself broke in another process: what `with_traceback` says of it there."""


def first_line(error: Exception) -> str:
    """The type of an exception and the first line of what it says."""
    said = (str(error).splitlines() or [""])[0]
    return said if isinstance(error, Broken) else f"{type(error).__name__}: {said}"


def with_traceback(error: Exception) -> str:
    """The same, and its traceback: for an exception that is being handled."""
    return f"{first_line(error)}\n{traceback.format_exc()}"
