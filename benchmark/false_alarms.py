"""Runs long campaigns on attention that is right, where every verdict is a false alarm or a finding.

    python benchmark/false_alarms.py [--cases 20000] [--time S] [--jobs N] [--device cpu|cuda] [NAME ...]

NAME is a control of `harness.faults` or any subject; by default all controls. Each is split over as many processes
as --jobs has to spare, with a seed of its own in each. Prints a row for each as it ends; exit code 1 where any alarmed.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

SLICES = 4
"""Parts of each subject's campaign."""


@dataclass
class Part:
    """What came of a part of a campaign, or of several together."""

    name: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    alarms: list[str] = field(default_factory=list)

    def add(self, other: Part) -> None:
        self.cases += other.cases
        self.refused += other.refused
        self.seconds += other.seconds
        self.worst = max(self.worst, other.worst)
        self.alarms += other.alarms

    def row(self) -> str:
        told = f"{self.cases:8} {self.refused:8} {self.seconds:9.1f} {self.worst:7.3f} {len(self.alarms):7}"
        return f"{self.name:28} {told}"


def main() -> int:
    asked = _arguments()
    from harness.faults import CONTROLS

    names = asked.names or list(CONTROLS)
    print(f"{'subject':28} {'cases':>8} {'refused':>8} {'seconds':>9} {'worst':>7} {'alarms':>7}")
    cases = -(-asked.cases // SLICES)
    whole = {name: Part(name) for name in names}
    left = dict.fromkeys(names, SLICES)
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        jobs = [
            pool.submit(run, name, cases, asked.time, asked.device, seed) for seed in range(SLICES) for name in names
        ]
        for job in as_completed(jobs):
            part = job.result()
            whole[part.name].add(part)
            left[part.name] -= 1
            if not left[part.name]:
                print(whole[part.name].row(), flush=True)
    for alarm in dict.fromkeys(alarm for part in whole.values() for alarm in part.alarms):
        print(alarm)
    return 1 if any(part.alarms for part in whole.values()) else 0


def run(name: str, cases: int, seconds: float | None, device: str, seed: int) -> Part:
    """One part, in a process of its own."""
    import torch

    from harness.campaign import Campaign
    from harness.devices import prepare
    from harness.faults import CONTROLS
    from harness.show import story
    from harness.subject import load

    prepare(device)
    torch.set_num_threads(1)
    subject = CONTROLS[name].subject() if name in CONTROLS else load(name)
    done = Campaign(subject, device, seed, seconds, cases).run()
    alarms = [story(name, finding.shrunk, finding.verdict) for finding in done.findings.values()]
    tally = done.tally
    return Part(name, tally.cases, sum(tally.refused.values()), tally.seconds, tally.worst, alarms)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--time", type=float, help="seconds for each part at most")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
