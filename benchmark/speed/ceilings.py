"""What the device reaches at best, measured in the same run: a large matrix product, and a large copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from speed.clock import Clock, Run
from speed.rows import DTYPES

SIZE = {"cuda": 8192, "cpu": 256}
COPIED_BYTES = {"cuda": 2 << 30, "cpu": 8 << 20}
REPEATS = 20


@dataclass(frozen=True)
class Ceilings:
    """matmul: TFLOP/s of a square product by dtype. copy: bytes read plus bytes written, in GB/s."""

    matmul: dict[str, float]
    copy: float


def measure_ceilings(device: str, dtypes: list[str], clock: Clock) -> Ceilings:
    """Measure both, each as the median of some calls. Random values: a product of zeros draws less power."""
    return Ceilings({dtype: _matmul(device, dtype, clock) for dtype in dtypes}, _copy(device, clock))


def _matmul(device: str, dtype: str, clock: Clock) -> float:
    n = SIZE[device]
    a, b = (torch.randn(n, n, device=device, dtype=DTYPES[dtype]) for _ in range(2))
    out = torch.empty_like(a)
    milliseconds = _median(clock, lambda: torch.matmul(a, b, out=out))
    return 2 * n**3 / milliseconds * 1e-9


def _copy(device: str, clock: Clock) -> float:
    source = torch.randint(0, 255, (COPIED_BYTES[device],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES[device] / _median(clock, lambda: target.copy_(source)) * 1e-6


def _median(clock: Clock, call: Run) -> float:
    clock.times(call, 3)
    return float(np.median(clock.times(call, REPEATS)))
