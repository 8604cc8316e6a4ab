"""The subcommand `fuzz`, from its arguments to its exit code."""

from __future__ import annotations

import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from harness.campaign.campaign import Campaign, database_folder, shared_database
from harness.campaign.keeper import CorpusKeeper
from harness.campaign.parallel.forks import Forks
from harness.campaign.parallel.jobs import Jobs, Part
from harness.campaign.setting import Setting
from harness.cli.github import report_campaign
from harness.cli.outcome import print_outcome, write_json
from harness.cli.progress import progress
from harness.running.devices import choose, prepare
from harness.subject.loading import DEFAULT
from harness.subject.pretend import asked_arch
from harness.subject.signature import with_signature
from harness.workers import WorkerLimits
from harness.workers.journal import Journaled, take_left_behind

DATABASE = ".flashattest/campaigns"


def run(asked: Namespace, console: Console) -> int:
    """Run a campaign, or several at the same time; 0: nothing failed, 1: failures, saved."""
    name = with_signature(asked.subject or DEFAULT, asked.signature)
    seconds = 60.0 if asked.time is None and asked.cases is None else asked.time
    whole = Part(0, secrets.randbelow(2**32) if asked.seed is None else asked.seed, seconds, asked.cases)
    torch.set_num_threads(1)
    prepared = _on_cluster if asked.cluster else _here
    with prepared(asked, name, whole) as (campaign, keeper), progress(console) as watch:
        campaign.run(watch)
    keeper.save_missing(campaign.findings)
    print_outcome(console, campaign)
    report_campaign(campaign)
    for problem in keeper.problems:
        print(f"flashattest: {problem}", file=sys.stderr)
    is_written = asked.json is None or write_json(asked.json, campaign)
    return 1 if campaign.findings else 0 if is_written else 2


@contextmanager
def _here(asked: Namespace, name: str, whole: Part) -> Iterator[tuple[Campaign | Jobs, CorpusKeeper]]:
    """Yield a campaign of one or more jobs on this machine, and the keeper of what they find."""
    device = choose(asked.device)
    prepare(device)
    jobs = asked.jobs or 1
    setting = Setting(name, asked.refuses, device, WorkerLimits.of_one_among(jobs), operation=asked.operation)
    keeper = CorpusKeeper(asked.corpus, name, device)
    make = setting.maker()
    folder = _examples(asked, name, device)
    max_failures = asked.max_failures

    def start(part: Part) -> Campaign:
        if device == "cuda":
            _pin(part.number)
        apart = setting.apart(make)
        return Campaign(
            apart.subject,
            device,
            part.seed,
            part.seconds,
            part.cases,
            None if folder is None else shared_database(folder),
            before=take_left_behind(name, device) if folder else (),
            examiner=Journaled(apart, name, device),
            keeper=keeper,
            probes=True,
            opens=part.number == 0,
            max_failures=max_failures,
        )

    if jobs == 1:
        yield start(whole), keeper
    else:
        until = (whole.seed, whole.seconds, whole.cases)
        yield Jobs(setting.card(make), device, *until, jobs, Forks(start), max_failures=max_failures), keeper


@contextmanager
def _on_cluster(asked: Namespace, name: str, whole: Part) -> Iterator[tuple[Jobs, CorpusKeeper]]:
    """Yield the same for a Ray cluster; what its nodes find is saved here."""
    from harness.campaign.parallel.cluster import Cluster

    with Cluster(asked.cluster) as cluster:
        device = "cpu" if asked_arch() else asked.device or cluster.device
        prepare("cpu")
        jobs = asked.jobs or cluster.slots(device)
        limits = WorkerLimits.of_one_among(min(jobs, cluster.slots_of_a_node(device)))
        setting = Setting(name, asked.refuses, device, limits, operation=asked.operation, pretends=asked_arch())
        keeper = CorpusKeeper(asked.corpus, name, device)
        backend = cluster.backend(setting, keeper, _examples(asked, name, device))
        until = (whole.seed, whole.seconds, whole.cases)
        yield Jobs(backend.card(), device, *until, jobs, backend, max_failures=asked.max_failures), keeper


def _examples(asked: Namespace, name: str, device: str) -> Path | None:
    """The folder of earlier examples; None with a given seed, which draws the same cases whatever lies there."""
    return database_folder(DATABASE, name, device) if asked.seed is None else None


def _pin(number: int) -> None:
    """Give this process one of the devices, in turn."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
