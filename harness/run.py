"""One call of a subject on the tensors of a case: what came back, and what it left behind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import first_line
from harness.memory import NAN_BYTE, GuardedAllocations, Snapshot
from harness.subject import Subject
from strategies import AttentionCase, Problem, build, calls_before

LARGE = 1 << 30
"""Bytes that a straightforward function takes for a large problem."""


class Refused(Exception):
    """The subject says that it does not support the case: counted and shown, never a failure."""


@dataclass(frozen=True)
class Result:
    """What a call returned (`returned`, anything at all) or raised, and what it did to its inputs.

    mutated, overrun: names of the inputs whose elements, or whose surroundings, changed. overrun_own: the tensors
    that the call made itself and wrote beside, each described.
    """

    returned: object = None
    raised: Exception | None = None
    mutated: tuple[str, ...] = ()
    overrun: tuple[str, ...] = ()
    overrun_own: tuple[str, ...] = ()

    @property
    def output(self) -> Tensor:
        """O, where what came back is O or (O, LSE)."""
        first = self.returned[0] if isinstance(self.returned, tuple) else self.returned
        assert isinstance(first, Tensor)
        return first

    @property
    def lse(self) -> Tensor | None:
        """LSE, where it came back."""
        return self.returned[1] if isinstance(self.returned, tuple) else None


def call(subject: Subject, case: AttentionCase, problem: Problem, band: int = NAN_BYTE) -> Result:
    """Run the calls of the case's history, then the case, on tensors that `build` made.

    band: the byte that stands beside the tensors that the call makes. Raises Refused where the subject refuses the
    case, or lacks a keyword that the case asks for.
    """
    if missing := subject.lacks(case):
        raise Refused(f"{subject.name} has no keyword {missing!r}")
    for earlier in calls_before(case):
        call_and_forget(subject, earlier, problem.q.device.type)
    return _call(subject, case, problem, band)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that there was no memory left, on the device or here."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def is_large(case: AttentionCase) -> bool:
    """Whether a right function may need more memory than there is: one that holds all scores in fp32, say."""
    g = case.geometry
    elements = g.B * g.d * (2 * g.Hq * g.Nq + 2 * g.Hq * g.Nk) + case.work
    return 4 * elements >= LARGE


def call_and_forget(subject: Subject, case: AttentionCase, device: str) -> None:
    """An earlier call: it may do what it likes, only what it leaves behind counts."""
    try:
        _call(subject, case, build(case, device), NAN_BYTE)
    except Refused:
        return


def _call(subject: Subject, case: AttentionCase, problem: Problem, band: int) -> Result:
    inputs = {"q": problem.q, "k": problem.k, "v": problem.v}
    lengths = {} if problem.seqlens_k is None else {"seqlens_k": problem.seqlens_k}
    names = [*inputs, *lengths]
    snapshot, allocations = Snapshot([*inputs.values(), *lengths.values()]), GuardedAllocations(band)
    returned, raised = None, None
    try:
        with torch.no_grad(), allocations:
            returned = subject.function(*inputs.values(), **lengths, **subject.arguments(case))
        if problem.q.is_cuda:
            torch.cuda.synchronize()
    except Exception as error:
        if subject.is_refusal(error):
            raise Refused(first_line(error)) from error
        if is_out_of_memory(error) and is_large(case):
            raise Refused("out of memory, on a large problem") from error
        raised = error
    own, outside = (tuple(names[i] for i in positions) for positions in snapshot.changes())
    return Result(returned, raised, mutated=own, overrun=outside, overrun_own=tuple(allocations.written_beside()))
