"""The call leaves its inputs and what lies around them alone."""

from __future__ import annotations

from collections.abc import Iterator

from harness.attempt import Attempt
from harness.checks.registry import Stage, check
from harness.verdict import Verdict


@check(Stage.CALL)
def inputs_unchanged(attempt: Attempt) -> Iterator[Verdict]:
    """Every input holds the same bits after the call as before."""
    if names := attempt.result.mutated:
        yield Verdict("input_mutated", "inputs_unchanged", f"The call wrote to its input {' and '.join(names)}.")


@check(Stage.CALL)
def surroundings_unchanged(attempt: Attempt) -> Iterator[Verdict]:
    """The guard bands around every input, and the gaps between its rows, hold the same bits as before."""
    if names := attempt.result.overrun:
        sentence = f"The call wrote outside its input {' and '.join(names)}."
        yield Verdict("out_of_bounds", "surroundings_unchanged", sentence)
