"""Calls attention providers once each between the profiler's start and stop, for `analyze_io.py` to profile.

    ncu --profile-from-start off --nvtx ... python benchmark/ncu_target.py '[[{"N": 4096, "d": 128}, "ours"]]'

Each call is warmed up first, so that nothing compiles or tunes while it is profiled, and has an NVTX range of its own.
Without ncu it just makes the calls.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable

import torch

from harness.devices import prepare
from speed.ncu_csv import ranged
from speed.providers import Refused, named
from speed.rows import Inputs, Row, make_inputs

start_profiler: Callable[[], object] = torch.cuda.profiler.start
stop_profiler: Callable[[], object] = torch.cuda.profiler.stop


def main() -> None:
    prepare("cuda")
    made: dict[Row, Inputs] = {}
    for shape, name in json.loads(sys.argv[1]):
        row = Row(**shape)
        if row not in made:
            made = {row: make_inputs(row, "cuda")}
        try:
            call_once(name, row, made[row])
        except (Refused, NotImplementedError, RuntimeError) as problem:
            print(f"{name} on {row}: {str(problem).splitlines()[0]}", file=sys.stderr)


def call_once(name: str, row: Row, inputs: Inputs) -> None:
    """Warm a provider up, and call it once for the profiler."""
    provider = named(name)
    with provider.around(), warnings.catch_warnings(action="ignore"):
        call = provider.bind(row, inputs)
        call()
        torch.cuda.synchronize()
        start_profiler()
        with torch.cuda.nvtx.range(ranged(name, row)):
            call()
            torch.cuda.synchronize()
        stop_profiler()


if __name__ == "__main__":
    main()
