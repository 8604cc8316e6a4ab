"""Runs our kernel compiled on a GPU and interpreted on the CPU on the same cases, and compares the two.

    python benchmark/interpreted_against_compiled.py [--time 60] [--seed 0]

Both are held against the truth; their difference against the sum of their budgets. Exit code 1 where either is past it.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
import time
from collections import Counter
from types import ModuleType

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from harness.attempt import attempt
from harness.interpreter import mend
from harness.run import Refused
from harness.subject import describe
from oracles import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    compiled = describe(_kernel("kernel_compiled", interpret=False).flash_attention, "compiled")
    interpreted = describe(_kernel("kernel_interpreted", interpret=True).flash_attention, "interpreted")
    mend()
    until = time.monotonic() + asked.time
    worst, counts, failed = Counter(), Counter(), []

    @settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=compiled.cases())
    def compare_on(case) -> None:
        if time.monotonic() > until:
            return
        try:
            gpu, cpu = attempt(compiled, case, "cuda"), attempt(interpreted, case, "cpu")
        except Refused:
            return
        apart = compare(gpu.result.output.cpu(), cpu.result.output.double(), 2 * cpu.budget.O)
        counts[case.dtype] += 1
        worst[case.dtype] = max(worst[case.dtype], apart.ratio)
        if not (apart.ok and gpu.compared["O"].ok and cpu.compared["O"].ok):
            failed.append(case)

    for number in itertools.count(asked.seed):
        seed(number)(compare_on)()
        if time.monotonic() > until:
            break
    for dtype, count in counts.items():
        print(f"{dtype}: {count} cases, largest difference {worst[dtype]:.3g} of the two budgets together")
    for case in failed:
        print(f"apart: {case!r}")
    return 1 if failed else 0


def _kernel(alias: str, interpret: bool) -> ModuleType:
    """The kernel package under a name of its own: `triton.jit` reads TRITON_INTERPRET when it decorates."""
    os.environ["TRITON_INTERPRET"] = "1" if interpret else "0"
    origin = importlib.util.find_spec("kernel").origin
    spec = importlib.util.spec_from_file_location(alias, origin, submodule_search_locations=[os.path.dirname(origin)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    os.environ["TRITON_INTERPRET"] = "0"
    print(f"{alias}: torch {torch.__version__}, interpret={interpret}")
    return module


if __name__ == "__main__":
    sys.exit(main())
