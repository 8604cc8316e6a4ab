"""What one process does: one planted function, hunted and put to the baselines."""

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
from harness.recall.hunt import Hunt, Limits, hunt
from harness.running.devices import prepare
from harness.workers import Apart, WorkerLimits
from harness.workers.forkserver import ForkServer

IN_A_WORKER = WorkerLimits(seconds=5.0)
"""What hangs is known sooner here than in a campaign: none of the right functions takes so long."""

SUITE_SECONDS = 300.0


@dataclass(frozen=True)
class Task:
    """A planted function, by its id, and what is to be done with it: a hunt with a part left out, and the baselines."""

    id: str
    limits: Limits
    ablation: str = "whole"
    baselines: bool = False


@dataclass(frozen=True)
class Fired:
    """Whether a baseline failed the function, and the seconds that it took to say so."""

    fired: bool
    seconds: float


@dataclass(frozen=True)
class Examined:
    """What came of a task."""

    id: str
    hunt: Hunt
    baselines: dict[str, Fired]


def examine(task: Task, watch: Watch = unwatched) -> Examined:
    """Hunt a fault for what it is expected to show, a control for anything."""
    is_fault = task.id in FAULTS
    planted = FAULTS[task.id] if is_fault else CONTROLS[task.id]
    wanted = FAULTS[task.id].expects if is_fault else KINDS
    part = ablation(task.ablation)
    limits = task.limits
    began = time.monotonic()
    subject = part.subject(planted.subject())
    planting = time.monotonic() - began

    def apart() -> Apart | None:
        return Apart(lambda: subject, limits.device, IN_A_WORKER) if _needs_a_worker(task) else None

    with part.applied():
        found = hunt(subject, wanted, limits, watch, apart)
    found = replace(found, seconds=found.seconds + planting)
    return Examined(task.id, found, _put_to_baselines(task) if task.baselines else {})


def _needs_a_worker(task: Task) -> bool:
    """Whether the function ends its process, or might lose the device for it."""
    return task.limits.device == "cuda" or (task.id in FAULTS and FAULTS[task.id].where == "process")


def _put_to_baselines(task: Task) -> dict[str, Fired]:
    return {name: _timed(task, name) for name in BASELINES}


def _timed(task: Task, name: str) -> Fired:
    planted = FAULTS.get(task.id) or CONTROLS[task.id]
    began = time.monotonic()
    device = task.limits.device
    if _needs_a_worker(task):
        fired = _fires_apart(lambda: BASELINES[name].fires(planted.subject(), device))
    else:
        fired = BASELINES[name].fires(planted.subject(), device)
    return Fired(fired, time.monotonic() - began)


def _fires_apart(fires: Callable[[], bool]) -> bool:
    """What a suite says in a process of its own; one that it does not survive, or that does not end, has failed it."""
    server = ForkServer(lambda connection: connection.send(fires()))
    child = server.fork()
    try:
        return not child.connection.poll(SUITE_SECONDS) or bool(child.connection.recv())
    except EOFError:
        return True
    finally:
        server.kill(child)
        server.close()


def examine_all(tasks: Sequence[Task], jobs: int, watch: Watch) -> Iterator[Examined]:
    """What comes of each task, as it ends. With more than one job each process has one thread, and `watch` is idle.

    Raises CannotRun where a planted function ended its process.
    """
    if jobs == 1:
        for task in tasks:
            yield examine(task, watch)
        return
    device = tasks[0].limits.device if tasks else "cpu"
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin, initargs=(device,)) as pool:
        futures = {pool.submit(examine, task): task.id for task in tasks}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                raise CannotRun(f"A planted function ended its process, perhaps {futures[future]}.") from None


def _begin(device: str) -> None:
    prepare(device)
    torch.set_num_threads(1)
