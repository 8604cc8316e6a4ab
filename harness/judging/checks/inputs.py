"""Checks that the call does not write to its inputs, nor outside them or the tensors that it makes."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt


@check(Stage.CALL)
def inputs_unchanged(attempt: Attempt) -> Iterator[Verdict]:
    """Every input holds the same bits after the call as before."""
    if names := attempt.result.mutated:
        yield Verdict("input_mutated", "inputs_unchanged", f"The call wrote to its input {' and '.join(names)}.")


@check(Stage.CALL)
def surroundings_unchanged(attempt: Attempt) -> Iterator[Verdict]:
    """Guard bands around every input and new tensor, and gaps between an input's rows, are unchanged."""
    names = [f"its input {name}" for name in attempt.result.overrun] + list(attempt.result.overrun_own)
    if names:
        sentence = f"The call wrote outside {' and '.join(names)}."
        yield Verdict("out_of_bounds", "surroundings_unchanged", sentence)
