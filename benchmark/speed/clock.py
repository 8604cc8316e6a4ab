"""Times of a call in milliseconds: on CUDA by events with a cold L2 cache, on a CPU by the wall clock.

`triton.testing.do_bench` flushes the L2 cache alike, but gives the host no lead: where enqueueing takes longer than the
call, the time between its events is the host's. It also warms up and estimates in every turn, and needs a GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch

Run = Callable[[], object]

FLUSH_BYTES = 256 << 20
"""More than any L2 cache holds, as `triton.testing.do_bench` has it."""
CYCLES_PER_MS = 2_000_000
"""Of the clock that `torch.cuda._sleep` counts; a chip that runs slower only waits a little longer."""
LONGEST_LEAD_MS = 50.0
ENQUEUED = 50
"""Calls enqueued in a row for the host's time: fewer than the 1024 launches after which a queue is full."""


class Clock(Protocol):
    """Times calls on one device."""

    def estimate(self, call: Run) -> float:
        """Roughly how long a warm call takes: it decides how often the call is repeated."""

    def times(self, call: Run, repeats: int) -> list[float]:
        """The time of each of `repeats` calls."""

    def host(self, call: Run) -> float | None:
        """How long the host takes to enqueue a call, its execution left out; None where the host computes."""

    def peak_bytes(self, call: Run) -> int | None:
        """The most memory that a call holds above what is held before it, its output included; None if unknown."""

    def synchronize(self) -> None:
        """Wait for all that was enqueued."""


def clock_of(device: str) -> Clock:
    """The clock of a device, "cpu" or "cuda"."""
    return CudaClock() if device == "cuda" else CpuClock()


class CpuClock:
    """The wall clock."""

    def estimate(self, call: Run) -> float:
        return statistics.median(self.times(call, 2))

    def times(self, call: Run, repeats: int) -> list[float]:
        return [_wall(call) for _ in range(repeats)]

    def host(self, call: Run) -> float | None:
        return None

    def peak_bytes(self, call: Run) -> int | None:
        return None

    def synchronize(self) -> None:
        pass


class CudaClock:
    """Events around each call, with the L2 cache overwritten before it.

    The host is given a lead, so that the time between the events is the device's own even where enqueueing a call
    takes longer than running it.
    """

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def estimate(self, call: Run) -> float:
        return statistics.median(self._timed(call, 3, 1.0))

    def times(self, call: Run, repeats: int) -> list[float]:
        self.synchronize()
        enqueueing = _wall(call)
        return self._timed(call, repeats, min(LONGEST_LEAD_MS, repeats * enqueueing))

    def _timed(self, call: Run, repeats: int, lead: float) -> list[float]:
        self.synchronize()
        sleep: Callable[[int], None] = torch.cuda._sleep
        sleep(int(lead * CYCLES_PER_MS))
        pairs = [self._between_events(call) for _ in range(repeats)]
        self.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def _between_events(self, call: Run) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = _event(), _event()
        self._flush.zero_()
        start.record()
        call()
        end.record()
        return start, end

    def host(self, call: Run) -> float | None:
        self.synchronize()
        begun = time.perf_counter()
        for _ in range(ENQUEUED):
            call()
        enqueued = time.perf_counter()
        self.synchronize()
        return 1e3 * (enqueued - begun) / ENQUEUED

    def peak_bytes(self, call: Run) -> int | None:
        self.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def synchronize(self) -> None:
        torch.cuda.synchronize()


def _event() -> torch.cuda.Event:
    make: Callable[..., torch.cuda.Event] = torch.cuda.Event
    return make(enable_timing=True)


def _wall(call: Run) -> float:
    begun = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begun)
