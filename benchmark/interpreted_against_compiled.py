"""Run our kernel compiled on a GPU and interpreted on the CPU on the same cases, and compare the two.

    python benchmark/interpreted_against_compiled.py [--time 60] [--seed 0]

Their difference may be as large as the sum of their budgets; exit code 1 where it is larger. The interpreter has a
process of its own: Triton reads TRITON_INTERPRET once, when it is imported.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from harness.errors import Refused
from harness.running.attempt import attempt
from harness.running.devices import prepare
from harness.subject.loading import DEFAULT, load
from oracles import compare
from strategies import AttentionCase


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    prepare(asked.device)
    compiled = load(DEFAULT)
    until = time.monotonic() + asked.time
    worst, counts, apart = Counter(), Counter(), []
    interpreter = ProcessPoolExecutor(1, get_context("spawn"), initializer=prepare, initargs=("cpu",))

    @settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=compiled.cases())
    def run_both(case: AttentionCase) -> None:
        if time.monotonic() > until:
            return
        other = interpreter.submit(interpreted, case)
        try:
            here, there = attempt(compiled, case, asked.device), other.result()
        except Refused:
            return
        right, budget = here.judgement.wanted("O"), here.judgement.budget("O")
        found = compare(here.result.output, there.to(right), 2 * budget)
        counts[case.dtype] += 1
        worst[case.dtype] = max(worst[case.dtype], found.ratio)
        if not found.ok:
            apart.append(case)

    for number in itertools.count(asked.seed):
        seed(number)(run_both)()
        if time.monotonic() > until:
            break
    for dtype, count in counts.items():
        print(f"{dtype}: {count} cases, largest difference {worst[dtype]:.3g} of the two budgets together")
    for case in apart:
        print(f"apart: {case!r}")
    return 1 if apart else 0


def interpreted(case: AttentionCase) -> torch.Tensor:
    """O of the case, by the interpreter, in its own process."""
    return attempt(load(DEFAULT), case, "cpu").result.output


if __name__ == "__main__":
    sys.exit(main())
