"""How long a case may take, and how much memory: what is past that is a hang, or a leak."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Limits of one worker.

    seconds: for a case, relations and truth included. compiling: for each compilation, and for the first case, in
    which libraries are loaded and devices woken. memory: bytes that the worker may take beyond what it starts with
    (on CUDA: of the device's memory); None: no limit.
    """

    seconds: float = 30.0
    compiling: float = 300.0
    memory: int | None = None

    def apply(self, device: str) -> None:
        """Bind this process to the limit of memory."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.memory is None:
            return
        if device == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.memory / total))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + self.memory,) * 2)


def fair_share(jobs: int, device: str) -> int:
    """Bytes for each of so many workers, when they share this machine's memory, or its device's, and leave a fifth."""
    if device == "cuda":
        # Of a device that is not woken: the parent of workers must not touch it.
        return 64 * GIB // jobs
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return physical * 4 // 5 // jobs


def _address_space() -> int:
    """Bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")
