"""Checks that the call returns without an exception."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.running.raised import describe_raised, subject_frame


@check(Stage.CALL)
def returns(attempt: Attempt) -> Iterator[Verdict]:
    """An exception on a legal case is a failure, unless it is a refusal (which is handled earlier)."""
    error = attempt.result.raised
    if error is not None:
        what = "The backward of the call" if attempt.result.in_backward else "The call"
        frame = subject_frame(error)
        place = None if frame is None else f"{type(error).__name__} at {frame.file}:{frame.line}"
        yield Verdict("raised", "returns", f"{what} raised {describe_raised(error)}", place=place)
