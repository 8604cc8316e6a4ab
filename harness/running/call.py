"""One call of a subject on the tensors of a case: what came back, and what it left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.errors import CannotRun, Refused, first_line
from harness.running.backward import Inputs, NoGradient, differentiate
from harness.running.memory import NAN_BYTE, GuardedAllocations, Snapshot
from harness.subject.declaration import Subject
from strategies import AttentionCase, Problem, build, calls_before
from strategies.case import INPUTS
from strategies.features import gradient_of

LARGE = 1 << 30
"""Bytes that a straightforward function takes for a large problem."""


@dataclass(frozen=True)
class Result:
    """What a call returned (`returned`, anything at all) or raised, and what it did to its inputs.

    mutated, overrun: names of the inputs whose elements, or whose surroundings, changed. overrun_own: the tensors
    that the call made itself and wrote beside, each described. gradients: of the inputs that need one, by name
    ("dQ"), None where none came; None at all where there was no backward. cut_off: O came back without a grad_fn.
    in_backward: what was raised was raised there.
    """

    returned: object = None
    raised: Exception | None = None
    mutated: tuple[str, ...] = ()
    overrun: tuple[str, ...] = ()
    overrun_own: tuple[str, ...] = ()
    gradients: Mapping[str, Tensor | None] | None = None
    cut_off: bool = False
    in_backward: bool = False

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

    @property
    def found_gradients(self) -> dict[str, Tensor]:
        """The gradients that came back, by name."""
        return {name: tensor for name, tensor in (self.gradients or {}).items() if tensor is not None}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that came back, by name: "O", "LSE" and the gradients."""
        outputs = {"O": self.output} if self.lse is None else {"O": self.output, "LSE": self.lse}
        return outputs | self.found_gradients


def call(subject: Subject, case: AttentionCase, problem: Problem, band: int = NAN_BYTE) -> Result:
    """Run the calls of the case's history, then the case, on tensors that `build` made.

    band: the byte that stands beside the tensors that the call makes. Raises Refused where the subject refuses the
    case, lacks a keyword that the case asks for, or declares that it has no gradients to ask for.
    """
    if missing := subject.lacks(case.features):
        raise Refused(f"{subject.name} has no keyword {missing!r}")
    if case.has_gradients and subject.differentiable is False:
        raise Refused(f"{subject.name} is not differentiable")
    for earlier in calls_before(case):
        call_and_forget(subject, earlier, problem.q.device.type)
    return _call(subject, case, problem, band)


def has_gradients(subject: Subject, case: AttentionCase, device: str) -> bool:
    """Whether O has a grad_fn in a call on inputs that require gradients; the backward itself is not run.

    Raises Refused where the subject refuses the call.
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
    """Whether an exception says that there was no memory left, on the device or here."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def is_large(case: AttentionCase) -> bool:
    """Whether a right function may need more memory than there is: one that holds all scores in fp32, say.

    A backward holds P, dP and dS beside them, and gradients beside the tensors.
    """
    g = case.geometry
    elements = g.B * g.d * (2 * g.Hq * g.Nq + 2 * g.Hq * g.Nk) + case.work
    copies = 4 if case.has_gradients else 1
    return 4 * elements * copies >= LARGE


def call_and_forget(subject: Subject, case: AttentionCase, device: str) -> None:
    """An earlier call, its backward included: it may do what it likes, only what it leaves behind counts."""
    try:
        _call(subject, case, build(case, device), NAN_BYTE)
    except Refused:
        return


def _call(subject: Subject, case: AttentionCase, problem: Problem, band: int) -> Result:
    watched = _watched(problem)
    snapshot, run = Snapshot(watched.values()), _Run(GuardedAllocations(band))
    try:
        run.all(subject, case, problem)
    except NoGradient as error:
        raise Refused(str(error)) from error
    except Exception as error:
        if refusal := refusal_in(error, subject, case):
            raise refusal from error
        run.said["raised"] = error
    names = list(watched)
    own, outside = (tuple(names[i] for i in positions) for positions in snapshot.changes())
    beside = tuple(run.allocations.written_beside())
    return Result(mutated=own, overrun=outside, overrun_own=beside, **run.said)


def _watched(problem: Problem) -> dict[str, Tensor]:
    """Every tensor that the call is handed, by name."""
    return problem.tensors | dict(problem.brought)


def _raise_if_forked_late(error: Exception) -> None:
    """Raise CannotRun for what torch's autograd says of a fork, which is no failure of the subject.

    Where there is an accelerator, the first backward of a process starts threads, and no fork that is made of it later
    can run one: https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork
    """
    if "Autograd-and-Fork" in str(error):
        raise CannotRun(
            "torch cannot run a backward here, in a fork of a process that has run one beside an accelerator; start "
            "flashattest as a command of its own."
        ) from error


def refusal_in(error: Exception, subject: Subject, case: AttentionCase) -> Refused | None:
    """The refusal that an exception of a call is, or None. Raises CannotRun for one that speaks of this process."""
    _raise_if_forked_late(error)
    if subject.is_refusal(error):
        return Refused(first_line(error))
    if is_out_of_memory(error) and is_large(case):
        return Refused("out of memory, on a large problem")
    return None


@dataclass
class _Run:
    """A call as far as it has come; said: what is known of its result."""

    allocations: GuardedAllocations
    said: dict[str, Any] = field(default_factory=dict)

    def all(self, subject: Subject, case: AttentionCase, problem: Problem) -> None:
        """The call and, where the case says so, its backward."""
        inputs = Inputs.of(problem, problem.needs_grad)
        with torch.set_grad_enabled(case.has_gradients), self.allocations:
            returned = inputs.call(subject, case)
        _wait(problem)
        self.said["returned"] = _detached(returned)
        if case.has_gradients:
            self._backward(returned, inputs, problem)

    def _backward(self, returned: Any, inputs: Inputs, problem: Problem) -> None:
        """Nothing where what came back has no right form, which is told by itself."""
        outputs = inputs.outputs(returned, problem)
        if outputs is None:
            return
        if not outputs[0][0].requires_grad:
            self.said |= {"gradients": dict.fromkeys(map(gradient_of, problem.needs_grad)), "cut_off": True}
            return
        self.said["in_backward"] = True
        with self.allocations:
            self.said["gradients"] = differentiate(outputs, inputs.leaves)
        _wait(problem)
        self.said["in_backward"] = False


def _wait(problem: Problem) -> None:
    if problem.q.is_cuda:
        torch.cuda.synchronize()


def _detached(returned: Any) -> Any:
    """What came back without its graph, which would keep the backward's memory."""
    if isinstance(returned, tuple):
        return tuple(map(_detached, returned))
    return returned.detach() if isinstance(returned, Tensor) else returned
