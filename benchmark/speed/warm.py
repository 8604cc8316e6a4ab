"""Compiles ahead in several processes: kernels that are compiled just in time then come from the caches on disk.

Nothing is timed here, and failures are left to the run itself to report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context

from harness.running.devices import prepare
from speed.passes import calls_of
from speed.providers import named
from speed.rows import Row, make_inputs

COMPILED = ("flex_compiled", "flash_attn_4")
"""Providers that compile for seconds, as ours do."""


def compile_ahead(calls: Iterable[tuple[str, Row]], device: str, jobs: int) -> None:
    """Call each provider that compiles once on each of its rows, `jobs` processes side by side."""
    tasks = [(name, row) for name, row in dict.fromkeys(calls) if name in COMPILED or named(name).ours]
    processes = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(device,))
    with suppress(BrokenProcessPool), processes as pool:
        for _ in pool.map(_call, tasks, [device] * len(tasks)):
            pass


def _begin(device: str) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # each process would start a pool of its own
    prepare(device)


def _call(task: tuple[str, Row], device: str) -> None:
    name, row = task
    with suppress(Exception):
        provider = named(name)
        with provider.around():
            calls_of(provider, row, make_inputs(row, device)).whole()
