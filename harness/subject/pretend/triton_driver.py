"""Triton's driver as it answers where there is a device. The interpreter itself asks it nothing."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from harness.interpreter.patches import Change
from harness.subject.pretend.arches import KIB, Arch, NotAnswered
from harness.subject.pretend.mode import CUDA


class Utils:
    """`driver.active.utils`."""

    def __init__(self, arch: Arch) -> None:
        self._arch = arch

    def get_device_properties(self, device: int = 0) -> dict[str, int]:
        """Return what Triton's own driver returns; rates in kHz and the width of the bus in bits are a round number."""
        return {
            "max_shared_mem": self._arch.shared,
            "max_num_regs": 64 * KIB,
            "multiprocessor_count": self._arch.multiprocessors,
            "warpSize": 32,
            "sm_clock_rate": 1_000_000,
            "mem_clock_rate": 1_000_000,
            "mem_bus_width": 1024,
        }

    def __getattr__(self, name: str) -> Any:
        raise NotAnswered(f"triton.runtime.driver.active.utils.{name}")


class Driver:
    """`driver.active`."""

    def __init__(self, arch: Arch) -> None:
        self._arch, self.utils = arch, Utils(arch)

    def get_current_target(self) -> Any:
        """Return the target that kernels would be compiled for."""
        major, minor = self._arch.capability
        return importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 10 * major + minor, 32)

    def get_device_capability(self, device: int = 0) -> tuple[int, int]:
        """Return major and minor version."""
        return self._arch.capability

    def get_active_torch_device(self) -> torch.device:
        """Return the device on which a subject places its tensors."""
        return CUDA

    def get_device_interface(self) -> Any:
        """Return what `torch.cuda` answers."""
        return torch.cuda

    def get_current_device(self) -> int:
        """Return the only one."""
        return 0

    def set_current_device(self, device: int) -> None:
        """Keep the only one."""

    def get_current_stream(self, device: int = 0) -> int:
        """Return the default stream."""
        return 0

    def __getattr__(self, name: str) -> Any:
        raise NotAnswered(f"triton.runtime.driver.active.{name}")


def changes(arch: Arch) -> list[Change]:
    """Return what to replace, so that Triton has a driver; nothing where Triton is not installed."""
    try:
        driver = importlib.import_module("triton.runtime.driver").driver
    except ImportError:
        return []
    return [(driver, "_active" if "_active" in vars(driver) else "active", Driver(arch))]
