"""The subcommand `fuzz`, from its arguments to its exit code."""

from __future__ import annotations

import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Callable

import torch
from rich.console import Console

from harness.ahead import Ahead, left_behind
from harness.campaign import Campaign, shared_database
from harness.devices import choose, prepare
from harness.forks import Forks
from harness.github import tell_campaign
from harness.jobs import Jobs, Part
from harness.keep import Corpus
from harness.outcome import print_outcome, write_json
from harness.progress import progress
from harness.subject import DEFAULT, Subject, load
from harness.verdict import CannotRun
from harness.workers import Apart, Limits

DATABASE = ".flashattest/campaigns"


def run(asked: Namespace, console: Console) -> int:
    """Run a campaign, or several side by side; 0: nothing failed, 1: failures, saved."""
    device = choose(asked.device)
    prepare(device)
    torch.set_num_threads(1)
    name = asked.subject or DEFAULT
    make = _maker(name, asked.refuses, device)
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    seconds = 60.0 if asked.time is None and asked.cases is None else asked.time
    limits = Limits.of_one_among(asked.jobs)
    kept = Corpus(asked.corpus, name, device)

    def start(part: Part) -> Campaign:
        if device == "cuda":
            _pin(part.number)
        apart = Apart(make, device, limits)
        return Campaign(
            _usable(apart.subject, device),
            device,
            part.seed,
            part.seconds,
            part.cases,
            shared_database(DATABASE, name, device),
            before=left_behind(name, device),
            examiner=Ahead(apart, name, device),
            keeper=kept,
        )

    if asked.jobs == 1:
        campaign: Campaign | Jobs = start(Part(0, seed, seconds, asked.cases))
    else:
        campaign = Jobs(_card(make, device, limits), device, seed, seconds, asked.cases, asked.jobs, Forks(start))
    with progress(console, campaign):
        campaign.run()
    saved = kept.located(campaign.findings)
    print_outcome(console, campaign, saved)
    tell_campaign(campaign, saved)
    for problem in kept.problems:
        print(f"flashattest: {problem}", file=sys.stderr)
    is_written = asked.json is None or write_json(asked.json, campaign, saved)
    return 1 if campaign.findings else 0 if is_written else 2


def _maker(name: str, refuses: str | None, device: str) -> Callable[[], Subject]:
    """What makes the subject in a worker: on the CPU it is loaded once, here; a module may wake CUDA, so there not."""
    if device == "cuda":
        return lambda: load(name, refuses)
    subject = load(name, refuses)
    return lambda: subject


def _card(make: Callable[[], Subject], device: str, limits: Limits) -> Subject:
    """What the subject says of itself."""
    apart = Apart(make, device, limits)
    apart.close()
    return _usable(apart.subject, device)


def _usable(subject: Subject, device: str) -> Subject:
    if device not in subject.devices:
        raise CannotRun(f"{subject.name} declares that it runs on {', '.join(subject.devices)}, not on {device}.")
    return subject


def _pin(number: int) -> None:
    """Give this process one of the devices, in turn."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
