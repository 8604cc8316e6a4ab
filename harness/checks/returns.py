"""The call returns."""

from __future__ import annotations

from collections.abc import Iterator

from harness.attempt import Attempt
from harness.checks.registry import Stage, check
from harness.verdict import Verdict


@check(Stage.CALL)
def returns(attempt: Attempt) -> Iterator[Verdict]:
    """An exception on a legal case is a failure, unless it is a refusal (which never comes this far)."""
    error = attempt.result.raised
    if error is not None:
        first_line = (str(error).splitlines() or [""])[0]
        yield Verdict("raised", "returns", f"The call raised {type(error).__name__}: {first_line}")
