"""The size from which a case is judged faster on its device: the measurement of `harness.running.devices.LARGE`.

    python benchmark/where_to_judge.py [--device cuda] [--most 26]

Times the truth, its budget and the comparison on one core and on the device, warm, the median of 7, for square bf16
problems of three head dims whose size as `harness.running.devices.size` has it doubles up to 2^most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from bisect import bisect_left

import torch

from harness.running.devices import LARGE, choose, size
from oracles import Judgement
from strategies import AttentionCase, Geometry, Problem, build
from strategies.geometry import MAX_LENGTH

HEAD_DIMS = (16, 64, 256)
FIRST = 16
TURNS = 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device")
    parser.add_argument("--most", type=int, default=26)
    asked = parser.parse_args()
    device = choose(asked.device)
    torch.set_num_threads(1)
    print(f"{'size':>12} {'d':>4} {'N':>5} {'cpu, ms':>9} {device + ', ms':>9}")
    faster = [row for d in HEAD_DIMS for power in range(FIRST, asked.most + 1) if (row := _row(device, power, d))]
    least = f"2^{min(faster).bit_length() - 1}" if faster else "no size here"
    print(f"the device is faster from {least} on; LARGE is 2^{LARGE.bit_length() - 1}")
    return 0


def _row(device: str, power: int, d: int) -> int | None:
    """Print a row; return the size where the device is faster."""
    N = bisect_left(range(MAX_LENGTH), 1 << power, key=lambda N: size(_square(N, d)))
    case = _square(N, d)
    here, there = _milliseconds(build(case)), _milliseconds(build(case, device))
    print(f"{size(case):12,} {d:4} {N:5} {here:9.2f} {there:9.2f}", flush=True)
    return 1 << power if there < here else None


def _square(N: int, d: int) -> AttentionCase:
    return AttentionCase(Geometry(Nq=N, Nk=N, d=d), dtype="bf16")


def _milliseconds(problem: Problem) -> float:
    """What judging takes: it ends with a number on the CPU, so no device is still at work when the clock stops."""
    O = torch.zeros_like(problem.q)
    taken = []
    for _ in range(TURNS + 2):
        began = time.perf_counter()
        Judgement(problem, independent=True).compare({"O": O})
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[2:])


if __name__ == "__main__":
    sys.exit(main())
