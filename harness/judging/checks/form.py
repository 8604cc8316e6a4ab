"""Checks the type, shape, dtype and device of O and LSE."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt


@check(Stage.FORM)
def form(attempt: Attempt) -> Iterator[Verdict]:
    """O has q's shape and dtype; the call returns (O, LSE) if LSE is asked for, LSE in fp32 of shape (B, Hq, Nq)."""
    returned, q = attempt.result.returned, attempt.problem.q
    if attempt.result.raised is not None:
        return
    wants_lse = attempt.case.features.return_lse
    outputs = returned if isinstance(returned, tuple) else (returned,)
    if len(outputs) > 2 or (wants_lse and len(outputs) != 2):
        wanted = "(O, LSE)" if wants_lse else "O or (O, LSE)"
        yield _wrong(f"The call returned {_name(returned)} where {wanted} was asked for.")
        return
    shapes = [("O", q.shape, q.dtype), ("LSE", q.shape[:3], torch.float32)]
    for output, (name, shape, dtype) in zip(outputs, shapes, strict=False):
        if sentence := _fault(output, name, shape, dtype, q.device):
            yield _wrong(sentence)


def _fault(output: object, name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> str | None:
    if not isinstance(output, Tensor):
        return f"{name} is {_name(output)}, not a tensor."
    if output.shape != shape:
        return f"{name} has the shape {tuple(output.shape)} and should have {tuple(shape)}."
    if output.dtype is not dtype:
        return f"{name} has the dtype {output.dtype} and should have {dtype}."
    if output.device != device:
        return f"{name} is on {output.device} and should be on {device}."
    return None


def _name(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__


def _wrong(sentence: str) -> Verdict:
    return Verdict("wrong_shape_or_dtype", "form", sentence)
