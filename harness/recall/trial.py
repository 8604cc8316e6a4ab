"""A trial: one planted function, hunted by a campaign and run through the baselines, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch

from harness.campaign.campaign import Watch, unwatched
from harness.errors import CannotRun
from harness.judging.verdict import KINDS
from harness.recall.ablation import ablation
from harness.recall.baselines import BASELINES
from harness.recall.faults import CONTROLS, FAULTS
from harness.recall.hunt import Hunt, HuntLimits, hunt
from harness.running.devices import prepare
from harness.workers import Apart, WorkerLimits
from harness.workers.forkserver import ForkServer

IN_A_WORKER = WorkerLimits(seconds=5.0)
"""Less than in a campaign: no right function takes this long."""

SUITE_SECONDS = 300.0


@dataclass(frozen=True)
class Trial:
    """The id of a planted function, the limits of its hunt, the part left out, and whether the baselines run."""

    id: str
    limits: HuntLimits
    ablation: str = "whole"
    baselines: bool = False


@dataclass(frozen=True)
class Fired:
    """Whether a baseline failed the function, and the seconds that it took to say so."""

    fired: bool
    seconds: float


@dataclass(frozen=True)
class TrialResult:
    """The hunt of a planted function, and each baseline's verdict on it."""

    id: str
    hunt: Hunt
    baselines: dict[str, Fired]


def run_trial(trial: Trial, watch: Watch = unwatched) -> TrialResult:
    """Hunt a fault for the kinds that it is expected to show, a control for any kind."""
    is_fault = trial.id in FAULTS
    planted = FAULTS[trial.id] if is_fault else CONTROLS[trial.id]
    wanted = FAULTS[trial.id].expects if is_fault else KINDS
    part = ablation(trial.ablation)
    limits = trial.limits
    began = time.monotonic()
    subject = part.subject(planted.subject())
    planting = time.monotonic() - began

    def apart() -> Apart | None:
        return Apart(lambda: subject, limits.device, IN_A_WORKER) if _needs_a_worker(trial) else None

    with part.applied():
        found = hunt(subject, wanted, limits, watch, apart)
    found = replace(found, seconds=found.seconds + planting)
    return TrialResult(trial.id, found, _run_baselines(trial) if trial.baselines else {})


def _needs_a_worker(trial: Trial) -> bool:
    """Whether the function ends its process, or may leave the device unusable."""
    return trial.limits.device == "cuda" or (trial.id in FAULTS and FAULTS[trial.id].where == "process")


def _run_baselines(trial: Trial) -> dict[str, Fired]:
    return {name: _timed(trial, name) for name in BASELINES}


def _timed(trial: Trial, name: str) -> Fired:
    planted = FAULTS.get(trial.id) or CONTROLS[trial.id]
    began = time.monotonic()
    device = trial.limits.device
    if _needs_a_worker(trial):
        fired = _fires_apart(lambda: BASELINES[name].fires(planted.subject(), device))
    else:
        fired = BASELINES[name].fires(planted.subject(), device)
    return Fired(fired, time.monotonic() - began)


def _fires_apart(fires: Callable[[], bool]) -> bool:
    """Whether a suite fails in a process of its own; one that dies or does not end counts as failed."""
    server = ForkServer(lambda connection: connection.send(fires()))
    child = server.fork()
    try:
        return not child.connection.poll(SUITE_SECONDS) or bool(child.connection.recv())
    except EOFError:
        return True
    finally:
        server.kill(child)
        server.close()


def run_trials(trials: Sequence[Trial], jobs: int, watch: Watch) -> Iterator[TrialResult]:
    """Yield the result of each trial as it ends. With more than one job, `watch` is not called.

    Raises CannotRun where a planted function ended its process.
    """
    if jobs == 1:
        for trial in trials:
            yield run_trial(trial, watch)
        return
    device = trials[0].limits.device if trials else "cpu"
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(device,)) as pool:
        futures = {pool.submit(run_trial, trial): trial.id for trial in trials}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                raise CannotRun(f"A planted function ended its process, perhaps {futures[future]}.") from None


def _begin(device: str) -> None:
    prepare(device)
    torch.set_num_threads(1)
