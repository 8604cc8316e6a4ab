"""How long a case may take, and how much memory it may use: beyond that it hangs, or leaks."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

SHARE_OF_WORKERS = 0.8
"""Of all memory; the rest is for what else runs here."""


@dataclass(frozen=True)
class WorkerLimits:
    """Limits of one worker.

    seconds: for a case, relations and truth included. compiling: for each compilation, and for the first case, in
    which libraries are loaded and devices initialised. share: of this machine's memory, beyond what the worker starts
    with, or on CUDA of the device's; None: no limit.
    """

    seconds: float = 30.0
    compiling: float = 120.0
    share: float | None = None

    @classmethod
    def of_one_among(cls, jobs: int) -> WorkerLimits:
        """Return the limits of each of several workers that share a machine."""
        return cls(share=SHARE_OF_WORKERS / jobs)

    def apply(self, device: str) -> None:
        """Limit the memory of this process; a crash leaves no core file."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.share is None:
            return
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.share)
        else:
            most = _address_space() + int(self.share * _physical())
            resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _physical() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
