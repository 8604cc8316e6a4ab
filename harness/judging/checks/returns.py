"""Checks that the call returns without an exception."""

from __future__ import annotations

from collections.abc import Iterator

from harness.errors import first_line
from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt


@check(Stage.CALL)
def returns(attempt: Attempt) -> Iterator[Verdict]:
    """An exception on a legal case is a failure, unless it is a refusal (which is handled earlier)."""
    error = attempt.result.raised
    if error is not None:
        what = "The backward of the call" if attempt.result.in_backward else "The call"
        yield Verdict("raised", "returns", f"{what} raised {first_line(error)}")
