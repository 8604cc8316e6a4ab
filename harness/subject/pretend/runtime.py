"""`torch.cuda` as it answers where there is a device: what it is, and streams and events that are always done."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from harness.interpreter.patches import Change
from harness.subject.pretend.arches import KIB, Arch, NotAnswered
from harness.subject.pretend.mode import CUDA


class Device:
    """`torch.cuda.device` and `torch.cuda.stream`: contexts that change nothing."""

    def __init__(self, *which: Any, **named: Any) -> None:
        self.idx, self.prev_idx = 0, 0

    def __enter__(self) -> None:
        """There is no other device to leave."""

    def __exit__(self, *raised: object) -> None:
        """There is no other device to go back to."""


class Stream(Device):
    """A stream, which is always done."""

    cuda_stream, device, device_index, priority = 0, CUDA, 0, 0

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def synchronize(self, *other: Any) -> None:
        """Wait for nothing."""

    wait_stream = wait_event = synchronize

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event that has happened."""
        return event or Event()


class Event:
    """An event, which has always happened."""

    def __init__(self, *how: Any, **named: Any) -> None:
        pass

    def query(self) -> bool:
        """Whether it has happened."""
        return True

    def record(self, *stream: Any) -> None:
        """Do nothing."""

    synchronize = wait = record

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds: a small number, since something may be divided by it."""
        return 1e-3


def changes(arch: Arch) -> list[Change]:
    """Return what to replace in torch, so that it answers for a GPU."""
    answers = _answers(arch)
    return [
        *((torch.cuda, name, answer) for name, answer in answers.items()),
        *((torch.accelerator, name, answer) for name, answer in _of_accelerator(answers).items()),
        (torch, "set_default_device", lambda device: None),
        (torch.version, "cuda", "12.8"),
        (torch.backends.cuda, "is_built", lambda: True),
        (torch._C, "_cuda_getCurrentRawStream", lambda device: 0),
        (torch._C, "__getattr__", _missing),
    ]


def _answers(arch: Arch) -> dict[str, Any]:
    total = arch.memory << 30
    fixed = {
        "is_available": True,
        "is_initialized": True,
        "init": None,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "get_device_capability": arch.capability,
        "get_device_name": arch.device,
        "get_device_properties": _properties(arch),
        "get_arch_list": [arch.name],
        "is_bf16_supported": arch.capability >= (8, 0),
        "is_tf32_supported": arch.capability >= (8, 0),
        "is_current_stream_capturing": False,
        "synchronize": None,
        "current_stream": Stream(),
        "default_stream": Stream(),
        "set_stream": None,
        "empty_cache": None,
        "ipc_collect": None,
        "manual_seed": None,
        "manual_seed_all": None,
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "reset_peak_memory_stats": None,
        "mem_get_info": (total, total),
    }
    return {name: _always(answer) for name, answer in fixed.items()} | {
        "device": Device,
        "device_of": Device,
        "stream": lambda stream: nullcontext(),
        "Stream": Stream,
        "Event": Event,
        "_lazy_init": _refuse,
    }


def _of_accelerator(answers: dict[str, Any]) -> dict[str, Any]:
    alike = ("is_available", "device_count", "synchronize", "current_stream")
    return {name: answers[name] for name in alike} | {
        "current_accelerator": _always(torch.device("cuda")),
        "current_device_index": _always(0),
        "set_device_index": _always(None),
    }


def _properties(arch: Arch) -> SimpleNamespace:
    major, minor = arch.capability
    return SimpleNamespace(
        name=arch.device,
        major=major,
        minor=minor,
        multi_processor_count=arch.multiprocessors,
        total_memory=arch.memory << 30,
        shared_memory_per_block=48 * KIB,
        shared_memory_per_block_optin=arch.shared,
        shared_memory_per_multiprocessor=arch.shared_of_all,
        regs_per_multiprocessor=64 * KIB,
        max_threads_per_multi_processor=arch.threads,
        max_threads_per_block=1024,
        L2_cache_size=arch.l2,
        warp_size=32,
        is_integrated=0,
        is_multi_gpu_board=0,
    )


def _always(answer: Any) -> Any:
    return lambda *about, **named: answer


def _missing(name: str) -> Any:
    """In the place of what `torch._C` lacks: say so of what it has where it is built for CUDA."""
    if name.startswith("_cuda_"):
        raise NotAnswered(f"torch.cuda ({name})")
    raise AttributeError(f"module 'torch._C' has no attribute {name!r}")


def _refuse() -> None:
    """In the place of what wakes the device: say who asked for that."""
    asking = sys._getframe(1).f_code
    raise NotAnswered(f"torch.cuda ({asking.co_name})")
