"""Compiles ahead in several processes: kernels that are compiled just in time then come from the caches on disk.

Nothing is timed here, and what fails is left for the run itself to tell.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context

from speed.providers import named
from speed.rows import Row, make_inputs

COMPILED = ("flex_compiled", "flash_attn_4")
"""Providers that compile for seconds, beside ours."""


def compile_ahead(rows: list[Row], names: list[str], device: str, jobs: int) -> None:
    """Call each compiled provider once on each row, `jobs` processes side by side."""
    tasks = [(name, row) for row in rows for name in names if name in COMPILED or named(name).ours]
    with suppress(BrokenProcessPool), ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for _ in pool.map(_call, tasks, [device] * len(tasks)):
            pass


def _call(task: tuple[str, Row], device: str) -> None:
    name, row = task
    with suppress(Exception):
        provider = named(name)
        with provider.around():
            provider.bind(row, make_inputs(row, device))()
