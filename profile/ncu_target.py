"""Calls attention providers once each between the profiler's start and stop, for `analyze_io.py` to profile.

    ncu --profile-from-start off --nvtx ... python profile/ncu_target.py '[[{"N": 4096, "d": 128}, "ours"]]'

Each call is warmed up first, so that nothing compiles or tunes while it is profiled, and has an NVTX range of its own.
Without ncu, or on a CPU, it just makes the calls.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from harness.running.devices import choose, prepare
from io_analysis.ncu_csv import ranged
from speed.passes import calls_of
from speed.providers import named
from speed.rows import Inputs, Row, make_inputs

start_profiler: Callable[[], object] = torch.cuda.profiler.start
stop_profiler: Callable[[], object] = torch.cuda.profiler.stop


def main() -> None:
    device = choose()
    prepare(device)
    made: dict[Row, Inputs] = {}
    for shape, name in json.loads(sys.argv[1]):
        row = Row(**shape)
        if row not in made:
            made = {row: make_inputs(row, device)}
        try:
            call_once(name, row, made[row])
            print(f"called {name} on {row}")
        except Exception as problem:  # the other calls are still of interest
            print(f"{name} on {row}: {type(problem).__name__}: {problem}", file=sys.stderr)


def call_once(name: str, row: Row, inputs: Inputs) -> None:
    """Warm a provider up, and call it once for the profiler."""
    provider = named(name)
    # A range is of one thread: a backward must be enqueued by this one.
    here = torch.autograd.set_multithreading_enabled(False)
    with provider.around(), warnings.catch_warnings(action="ignore"), here:
        call = calls_of(provider, row, inputs).timed()
        call()
        with profiled(ranged(name, row)) if inputs.q.is_cuda else nullcontext():
            call()


@contextmanager
def profiled(name: str) -> Iterator[None]:
    """Let the profiler see what is enqueued inside, and nothing else, in a range of this name."""
    torch.cuda.synchronize()
    start_profiler()
    with torch.cuda.nvtx.range(name):
        yield
        torch.cuda.synchronize()
    stop_profiler()


if __name__ == "__main__":
    main()
