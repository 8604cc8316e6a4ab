"""A CUDA device that is answered for on a CPU: what a subject's host code asks of it, not what it computes.

Answers are given only while a subject is imported or runs (`pretended_cuda`); the harness itself never sees them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import CannotRun
from harness.interpreter.patches import replace_all, restore_all
from harness.subject.pretend import operators, runtime, triton_driver
from harness.subject.pretend.arches import ARCHES, Arch
from harness.subject.pretend.mode import ACTIVE, CudaTensors

__all__ = ["ask_for", "asked_arch", "hint", "option", "pretended_cuda"]

_NO_GPU = ("not compiled with CUDA", "active drivers", "NVIDIA driver", "No CUDA GPUs")
VARIABLE = "FLASHATTEST_PRETEND_CUDA"


def ask_for(arch: str | None) -> None:
    """Pretend a device of this architecture from now on, in child processes too; None changes nothing.

    Raises CannotRun where the architecture is unknown.
    """
    if arch is not None:
        _named(arch)
        os.environ[VARIABLE] = arch


def asked_arch() -> str | None:
    """Return the architecture that is asked for, on the command line or in the environment, or None.

    Raises CannotRun where it is unknown.
    """
    arch = os.environ.get(VARIABLE) or None
    return None if arch is None else _named(arch).name


def option() -> str:
    """Return what a command line needs, after a space, so that the same device is pretended; nothing where none is."""
    arch = asked_arch()
    return f" --pretend-cuda {arch}" if arch else ""


def hint(error: BaseException) -> str:
    """Return a sentence, after a space, for an error that says that there is no GPU; nothing for another."""
    is_of_cuda = any(words in str(error) for words in _NO_GPU)
    return " On a CPU, --pretend-cuda sm_90 answers for a GPU." if is_of_cuda and asked_arch() is None else ""


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """Answer for a device of the architecture that is asked for, for the length of a `with`; of none, do nothing."""
    name = asked_arch()
    if name is None or ACTIVE:
        yield
        return
    arch = ARCHES[name]
    mode = CudaTensors()
    changes = [*runtime.changes(arch), *triton_driver.changes(arch), *operators.changes()]
    originals = replace_all(changes)
    ACTIVE.append(mode)
    try:
        with mode:
            yield
    finally:
        ACTIVE.remove(mode)
        restore_all(originals)


def _named(arch: str) -> Arch:
    if arch not in ARCHES:
        raise CannotRun(f"--pretend-cuda (or {VARIABLE}) is one of {', '.join(ARCHES)}, not {arch!r}.")
    return ARCHES[arch]
