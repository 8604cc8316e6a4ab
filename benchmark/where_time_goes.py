"""Where a campaign's time goes: the subject, the truth and its budget, or the harness itself.

    python benchmark/where_time_goes.py [--subject sdpa_math] [--cases 3000]

A timer interrupts the campaign every millisecond of CPU time, and the time since the last interrupt is charged to the
innermost function that belongs to one of the PARTS. Prints each part's milliseconds a case and its share.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import torch

from harness.campaign.campaign import Campaign
from harness.running.devices import prepare
from harness.subject.declaration import Subject
from harness.subject.loading import load

ROOT = Path(__file__).parents[1]
INTERVAL = 0.001
CALL = "harness/running/memory.py:__torch_function__"
"""Where a torch function that the subject calls is under way."""

PARTS = (
    ("subject", ("harness/subject/adapters/", "kernel/", "harness/interpreter/", "/triton/", CALL)),
    ("truth and budget", ("oracles/truth/", "oracles/budget/")),
    ("comparing", ("oracles/",)),
    ("relations", ("harness/judging/relations/",)),
    ("guarding memory", ("harness/running/memory",)),
    ("making tensors", ("strategies/tensors", "strategies/values", "strategies/layouts")),
    ("drawing cases", ("strategies/", "/hypothesis/")),
    ("account and coverage", ("harness/campaign/tally", "harness/campaign/coverage")),
    ("other checks", ("harness/",)),
)
NOT_THE_HARNESS = ("subject", "truth and budget")


class Sampler:
    """Charges CPU time to parts while it is entered."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = 0.0

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self._tick)
        self._last = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _tick(self, number: int, frame: FrameType | None) -> None:
        now = time.process_time()
        self.seconds[_part(frame)] += now - self._last
        self._last = now


def _part(frame: FrameType | None) -> str:
    """The part of the innermost function that has one: its place starts with a place of the part (or holds it: "/")."""
    while frame is not None:
        place = f"{frame.f_code.co_filename.removeprefix(f'{ROOT}/')}:{frame.f_code.co_name}"
        for name, places in PARTS:
            if any(place.startswith(p) or (p[0] == "/" and p in place) for p in places):
                return name
        frame = frame.f_back
    return "other"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="sdpa_math")
    parser.add_argument("--cases", type=int, default=3000)
    asked = parser.parse_args()
    prepare("cpu")
    torch.set_num_threads(1)
    subject = load(asked.subject)
    Campaign(subject, "cpu", 1, None, 100).run()
    _print_shares(subject, asked.cases)
    return 0


def _print_shares(subject: Subject, cases: int) -> None:
    with Sampler() as sampler:
        campaign = Campaign(subject, "cpu", 2, None, cases).run()
    total = sum(sampler.seconds.values())
    print(f"{subject.name}: {cases} cases, {cases / total:.0f} a CPU second, {len(campaign.findings)} failures")
    for part, seconds in sampler.seconds.most_common():
        print(f"{part:22} {1000 * seconds / cases:7.2f} ms a case {seconds / total:6.1%}")
    own = 1 - sum(sampler.seconds[part] for part in NOT_THE_HARNESS) / total
    print(f"the harness's own share: {own:.1%}")


if __name__ == "__main__":
    sys.exit(main())
