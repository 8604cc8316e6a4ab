"""Where a subject runs (the device, and Triton's interpreter where there is no GPU), and where it is judged."""

from __future__ import annotations

import os

import torch

from harness.errors import CannotRun
from harness.interpreter import mend
from harness.subject.pretend import asked_arch
from strategies import AttentionCase

DEVICES = ("cpu", "cuda")

LARGE = 1 << 23
"""Size from which a case is judged where it ran.

`benchmark/where_to_judge.py` on an H100 and a core of its host, for d 16, 64 and 256: the device takes 2.4 to 2.7 ms
for any size up to 2^25, the core 2.1 to 2.5 ms for 2^22 and 3.4 to 3.7 ms for 2^23.
"""


def choose(device: str | None = None) -> str:
    """Return the device asked for, or cuda where there is one, else cpu. Raises CannotRun where cuda is missing.

    Where a CUDA device is pretended, that is cpu.

    It is looked for without waking it: a process that has woken CUDA has no children that can use it.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if asked_arch() is not None:
        if device == "cuda":
            raise CannotRun("--pretend-cuda answers for a GPU on a CPU; run with --device cpu.")
        return "cpu"
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in DEVICES:
        raise CannotRun(f"device must be one of {', '.join(DEVICES)}, not {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("There is no CUDA device here; run with --device cpu.")
    return device


def judged_on(case: AttentionCase, device: str) -> str:
    """Where a result that came from this device is judged: its truth, its budget, and the comparison with them.

    On the CPU, from the same bits, since hundreds of small operations take a GPU as many launches; where it ran, once
    the arithmetic takes a CPU longer than that.
    """
    return device if size(case) >= LARGE else "cpu"


def size(case: AttentionCase) -> int:
    """What judging a case takes, in units of about equal time on a CPU: for each score, and for each element."""
    g = case.geometry
    return case.work * (g.d + 64) + 32 * g.B * g.d * (g.Hq * g.Nq + 2 * g.Hk * g.Nk)


def prepare(device: str) -> None:
    """Make ready to import and run a subject: on a CPU, Triton kernels run in the (mended) interpreter.

    Call it before the subject's module is imported: `triton.jit` reads TRITON_INTERPRET when it decorates.
    """
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        mend()
