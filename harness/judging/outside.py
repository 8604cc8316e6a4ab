"""Names the tensors that a call reads outside of: it takes a call for each, so only a shrunk case is asked."""

from __future__ import annotations

from dataclasses import replace

from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt


def with_tensors_read(attempt: Attempt, verdict: Verdict) -> Verdict:
    """Return the verdict of an out-of-bounds read with the tensors that the call reads outside of; others as they are.

    A subject that does not repeat itself may have none.
    """
    if verdict.kind != "out_of_bounds" or verdict.tensor is None or not attempt.is_right_with_zero_guards:
        return verdict
    names = attempt.read_outside
    of = f"its input {' and '.join(names)}" if names else "a tensor that it made itself"
    return replace(verdict, sentence=f"{verdict.sentence} It lies outside {of}.")
