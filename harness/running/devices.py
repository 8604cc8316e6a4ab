"""The device that runs a subject (Triton's interpreter on a CPU), and the device that judges it."""

from __future__ import annotations

import os

import torch

from harness.errors import CannotRun
from harness.interpreter import mend
from harness.subject.pretend import asked_arch
from strategies import AttentionCase

DEVICES = ("cpu", "cuda")

LARGE = 1 << 23
"""Size from which a case is judged on the device that ran it (measured in docs/results/budget.md)."""


def choose(device: str | None = None) -> str:
    """Return the device asked for; for None cuda if it is available, else cpu. Raises CannotRun if cuda is missing.

    The check does not initialise CUDA: children of a process that has initialised it cannot use it. Where a CUDA device
    is pretended, the device is cpu.
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


def judging_device(case: AttentionCase, device: str) -> str:
    """Return the device that judges a result of this device: it computes truth and budget and compares.

    A small case is judged on the CPU, from the same bits, since hundreds of small operations cost a GPU a launch each;
    a large one on the device that ran it.
    """
    return device if size(case) >= LARGE else "cpu"


def size(case: AttentionCase) -> int:
    """Return the cost of judging a case, in units of about equal time on a CPU: for each score, and each element."""
    g = case.geometry
    return case.work * (g.d + 64) + 32 * g.B * g.d * (g.Hq * g.Nq + 2 * g.Hk * g.Nk)


def prepare(device: str) -> None:
    """Prepare to import and run a subject: on a CPU, Triton kernels run in the (mended) interpreter.

    Call it before the subject's module is imported: `triton.jit` reads TRITON_INTERPRET when it decorates.
    """
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        mend()
