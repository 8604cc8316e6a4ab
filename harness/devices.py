"""Where a subject runs: the device, and Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import torch

from harness.interpreter import mend
from harness.verdict import CannotRun

DEVICES = ("cpu", "cuda")


def choose(device: str | None = None) -> str:
    """Return the device asked for, or cuda where there is one, else cpu. Raises CannotRun where cuda is missing.

    It is looked for without waking it: a process that has woken CUDA has no children that can use it.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in DEVICES:
        raise CannotRun(f"device must be one of {', '.join(DEVICES)}, not {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise CannotRun("There is no CUDA device here; run with --device cpu.")
    return device


def prepare(device: str) -> None:
    """Make ready to import and run a subject: on a CPU, Triton kernels run in the (mended) interpreter.

    Call it before the subject's module is imported: `triton.jit` reads TRITON_INTERPRET when it decorates.
    """
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        mend()
