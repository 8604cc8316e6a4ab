"""Checks that outputs and gradients share no memory with an input."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt


@check(Stage.FORM)
def own_memory(attempt: Attempt) -> Iterator[Verdict]:
    """No output or gradient shares its storage with an input: writing to the one must not change the other."""
    returned, problem = attempt.result.returned, attempt.problem
    outputs = returned if isinstance(returned, tuple) else (returned,)
    named = [*zip(("O", "LSE"), outputs, strict=False), *attempt.result.found_gradients.items()]
    for name, output in named:
        for of, tensor in problem.inputs.items():
            if isinstance(output, Tensor) and output.numel() and _storage(output) == _storage(tensor):
                yield Verdict("output_aliased", "own_memory", f"{name} lies in the memory of the input {of}.")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
