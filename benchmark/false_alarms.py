"""Run long campaigns on attention that is right: every verdict is a false alarm or a finding.

    python benchmark/false_alarms.py [--cases 20000] [--time S] [--jobs N] [--device cpu|cuda] [NAME ...]

NAME is a control of `harness.recall.faults` or any subject; by default all controls. All jobs work on one subject at a
time. Prints a row for each as it ends; exit code 1 where any alarmed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from harness.campaign.campaign import Campaign
from harness.campaign.parallel.forks import Forks
from harness.campaign.parallel.jobs import Jobs, Part
from harness.judging.story import story
from harness.recall.faults import CONTROLS
from harness.running.devices import choose, prepare
from harness.subject.declaration import Subject
from harness.subject.loading import load
from harness.workers import Apart, WorkerLimits


def main() -> int:
    asked = _arguments()
    device = choose(asked.device)
    prepare(device)
    torch.set_num_threads(1)
    print(f"{'subject':28} {'cases':>8} {'refused':>8} {'seconds':>9} {'worst':>7} {'alarms':>7}", flush=True)
    alarms = [alarm for name in asked.names or CONTROLS for alarm in run(name, asked, device)]
    return 1 if alarms else 0


def run(name: str, asked: argparse.Namespace, device: str) -> list[str]:
    """Run the campaigns on one subject, print its row and its alarms, and return them."""
    make = _maker(name)
    limits = WorkerLimits.of_one_among(asked.jobs)

    def start(part: Part) -> Campaign:
        apart = Apart(make, device, limits)
        return Campaign(apart.subject, device, part.seed, part.seconds, part.cases, examiner=apart)

    done = Jobs(make().card(), device, asked.seed, asked.time, asked.cases, asked.jobs, Forks(start)).run()
    tally, alarms = done.tally, [story(name, each.shrunk, each.verdict) for each in done.findings.values()]
    refused = sum(tally.refused.values())
    row = f"{tally.cases:8} {refused:8} {tally.seconds:9.1f} {tally.worst:7.3f} {len(alarms):7}"
    print("\n".join([f"{name:28} {row}", *alarms]), flush=True)
    return alarms


def _maker(name: str) -> Callable[[], Subject]:
    """What makes the subject in each worker; a control uses no device and is made here for all."""
    if name not in CONTROLS:
        return lambda: load(name)
    subject = CONTROLS[name].subject()
    return lambda: subject


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--time", type=float, help="seconds for each subject at most")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
