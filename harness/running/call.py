"""One call of a subject on the tensors of a case: its result, and its writes to memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.errors import CannotRun, Refused, first_line
from harness.interpreter.masked_lanes import watched_lanes
from harness.running.backward import Inputs, NoGradient, differentiate
from harness.running.memory import NAN_BYTE, GuardedAllocations, Snapshot
from harness.subject.declaration import Subject
from strategies import AttentionCase, Problem, build, calls_before
from strategies.case import INPUTS
from strategies.features import gradient_of

LARGE_BYTES = 1 << 30
"""Memory of a plain implementation from which a problem counts as large."""


@dataclass(frozen=True)
class Result:
    """What a call returned (`returned`, of any type) or raised, and what it did to its inputs.

    mutated, overrun: names of the inputs whose elements, or whose surroundings, changed. overrun_own: descriptions of
    the tensors that the call made itself and wrote outside of. gradients: by name ("dQ"), None for a missing one; None
    if there was no backward. cut_off: O came back without a grad_fn. in_backward: the backward raised.
    lanes_undefined: in the interpreter, a load left masked lanes undefined.
    """

    returned: object = None
    raised: Exception | None = None
    mutated: tuple[str, ...] = ()
    overrun: tuple[str, ...] = ()
    overrun_own: tuple[str, ...] = ()
    gradients: Mapping[str, Tensor | None] | None = None
    cut_off: bool = False
    in_backward: bool = False
    lanes_undefined: bool = False

    @property
    def output(self) -> Tensor:
        """O, if the call returned O or (O, LSE)."""
        first = self.returned[0] if isinstance(self.returned, tuple) else self.returned
        assert isinstance(first, Tensor)
        return first

    @property
    def lse(self) -> Tensor | None:
        """LSE, None if it was not returned."""
        return self.returned[1] if isinstance(self.returned, tuple) else None

    @property
    def found_gradients(self) -> dict[str, Tensor]:
        """The gradients that came back, by name."""
        return {name: tensor for name, tensor in (self.gradients or {}).items() if tensor is not None}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that came back, by name: "O", "LSE" and the gradients."""
        outputs = {"O": self.output} if self.lse is None else {"O": self.output, "LSE": self.lse}
        return outputs | self.found_gradients


def call(
    subject: Subject, case: AttentionCase, problem: Problem, band: int = NAN_BYTE, zero_lanes: bool = False
) -> Result:
    """Run the calls of the case's history, then the case, on tensors that `build` made.

    band: the byte that fills the guard bands of tensors that the call makes. zero_lanes: in the interpreter, masked
    lanes of a load hold 0, whatever the subject declares. Raises Refused if the subject refuses the case, lacks a
    keyword that the case uses, or declares that it is not differentiable and the case has a backward.
    """
    if missing := subject.lacks(case.features):
        raise Refused(f"{subject.name} has no keyword {missing!r}")
    if case.has_gradients and subject.differentiable is False:
        raise Refused(f"{subject.name} is not differentiable")
    for earlier in calls_before(case):
        call_and_forget(subject, earlier, problem.q.device.type)
    return _call_once(subject, case, problem, band, zero_lanes)


def has_gradients(subject: Subject, case: AttentionCase, device: str) -> bool:
    """Whether O has a grad_fn in a call on inputs that require gradients; the backward itself is not run.

    Raises Refused if the subject refuses the call.
    """
    inputs = Inputs.of(build(case, device), INPUTS)
    try:
        with torch.enable_grad():
            returned = inputs.call(subject, case)
    except Exception as error:
        raise refusal_in(error, subject, case) or error from None
    O = returned[0] if isinstance(returned, tuple) else returned
    return isinstance(O, Tensor) and O.requires_grad


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means out of memory, on the device or the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def is_large(case: AttentionCase) -> bool:
    """Whether a right function may run out of memory, such as one that holds all scores in fp32.

    A backward also holds P, dP and dS, and the gradients.
    """
    g = case.geometry
    elements = g.B * g.d * (2 * g.Hq * g.Nq + 2 * g.Hq * g.Nk) + case.work
    copies = 4 if case.has_gradients else 1
    return 4 * elements * copies >= LARGE_BYTES


def call_and_forget(subject: Subject, case: AttentionCase, device: str) -> None:
    """Make an earlier call with its backward, and ignore its result: only its effect on later calls counts."""
    try:
        _call_once(subject, case, build(case, device))
    except Refused:
        return


def _call_once(
    subject: Subject, case: AttentionCase, problem: Problem, band: int = NAN_BYTE, zero_lanes: bool = False
) -> Result:
    watched = _call_tensors(problem)
    snapshot, run = Snapshot(watched.values()), _Run(GuardedAllocations(band))
    try:
        with watched_lanes(hold_zero=zero_lanes) as lanes:
            run.run(subject, case, problem)
    except NoGradient as error:
        raise Refused(str(error)) from error
    except Exception as error:
        if refusal := refusal_in(error, subject, case):
            raise refusal from error
        run.found["raised"] = error
    finally:
        subject.end_call()
    names = list(watched)
    own, outside = (tuple(names[i] for i in positions) for positions in snapshot.changes())
    overrun_own = tuple(run.allocations.written_outside())
    undefined = lanes.were_read and not zero_lanes and subject.masked_lanes != "zero"
    return Result(mutated=own, overrun=outside, overrun_own=overrun_own, lanes_undefined=undefined, **run.found)


def _call_tensors(problem: Problem) -> dict[str, Tensor]:
    """Return every tensor that the call gets, by name."""
    return problem.tensors | dict(problem.brought)


def _raise_if_forked_late(error: Exception) -> None:
    """Raise CannotRun for torch's error about autograd in a fork, which is no failure of the subject.

    With an accelerator, the first backward of a process starts threads, and no later fork of the process can run a
    backward: https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork
    """
    if "Autograd-and-Fork" in str(error):
        raise CannotRun(
            "torch cannot run a backward here, in a fork of a process that has run one on a machine with an "
            "accelerator; start flashattest as a command of its own."
        ) from error


def refusal_in(error: Exception, subject: Subject, case: AttentionCase) -> Refused | None:
    """Return the refusal that an exception of a call means, or None. Raises CannotRun if it is about this process."""
    _raise_if_forked_late(error)
    if isinstance(error, CannotRun):
        raise error
    if subject.is_refusal(error):
        return Refused(first_line(error))
    if is_out_of_memory(error) and is_large(case):
        return Refused("out of memory, on a large problem")
    return None


@dataclass
class _Run:
    """A call in progress; found: the fields of its result that are known."""

    allocations: GuardedAllocations
    found: dict[str, Any] = field(default_factory=dict)

    def run(self, subject: Subject, case: AttentionCase, problem: Problem) -> None:
        """Run the call and, if the case has one, its backward."""
        inputs = Inputs.of(problem, problem.needs_grad)
        with torch.set_grad_enabled(case.has_gradients), self.allocations:
            returned = inputs.call(subject, case)
        _synchronize(problem)
        self.found["returned"] = _detach(returned)
        if case.has_gradients:
            self._backward(subject, returned, inputs, problem)

    def _backward(self, subject: Subject, returned: Any, inputs: Inputs, problem: Problem) -> None:
        """Run the backward; do nothing if the result has a wrong form, which a check of its own reports."""
        outputs = inputs.outputs(returned, problem)
        if outputs is None:
            return
        if not outputs[0][0].requires_grad:
            self.found |= {"gradients": dict.fromkeys(map(gradient_of, problem.needs_grad)), "cut_off": True}
            return
        self.found["in_backward"] = True
        with self.allocations:
            self.found["gradients"] = differentiate(subject, outputs, inputs.leaves)
        _synchronize(problem)
        self.found["in_backward"] = False


def _synchronize(problem: Problem) -> None:
    if problem.q.is_cuda:
        torch.cuda.synchronize()


def _detach(returned: Any) -> Any:
    """Return the result without its graph, which would keep the backward's memory alive."""
    if isinstance(returned, tuple):
        return tuple(map(_detach, returned))
    return returned.detach() if isinstance(returned, Tensor) else returned
