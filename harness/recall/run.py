"""`flashattest recall`: plants the known faults, and the controls after them, and says what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Protocol

from harness.campaign.campaign import Watch
from harness.errors import CannotRun
from harness.recall.examine import Examined, Task, examine_all
from harness.recall.faults import CONTROLS, FAULTS
from harness.recall.faults.registry import Where
from harness.recall.hunt import Limits
from harness.recall.outcome import Recall
from harness.subject.declaration import ANY

FEWEST_CASES = 200
"""A control has as many cases as the slowest fault took, and no fewer than this."""


class Show(Protocol):
    """What is told of a recall while it runs."""

    @property
    def watch(self) -> Watch:
        """Called after every case."""

    def ended(self, recall: Recall, examined: Examined) -> None:
        """Called after every fault and control."""


@dataclass(frozen=True)
class Plan:
    """What a recall does: limits for each fault, the part of the harness left out, whether baselines run too."""

    limits: Limits
    ablation: str = "whole"
    baselines: bool = False
    jobs: int = 1


def recall(ids: Sequence[str], plan: Plan, show: Show) -> Recall:
    """Plant faults one after the other, then the controls of their kind, for as many cases as the slowest fault took.

    Ctrl-C ends it; what was found until then stands.
    """
    controls = _controls(ids)
    limits = plan.limits
    outcome = Recall(limits.seed, limits.device, limits.seconds, plan.ablation)
    try:
        _run(outcome, [_task(id, plan) for id in ids], plan, show)
        _run(outcome, [_task(id, plan, _cases(outcome, where_of(id))) for id in controls], plan, show)
    except KeyboardInterrupt:
        outcome.not_run.update({id: "interrupted" for id in [*ids, *controls] if id not in outcome.examined})
    return outcome


def _run(outcome: Recall, tasks: Sequence[Task], plan: Plan, show: Show) -> None:
    for examined in examine_all(tasks, plan.jobs, show.watch):
        outcome.examined[examined.id] = examined
        show.ended(outcome, examined)


def _task(id: str, plan: Plan, cases: int | None = None) -> Task:
    return Task(id, replace(plan.limits, cases=cases), plan.ablation, plan.baselines)


def _cases(outcome: Recall, where: Where) -> int:
    taken = (outcome.examined[fault.id].hunt.cases for fault in outcome.faults if fault.where == where)
    return max(FEWEST_CASES, *taken, 0)


def _controls(asked: Sequence[str]) -> list[str]:
    """Ids of the controls that are built as the faults are: those with gradients alone where all faults are theirs."""
    built = {"kernel" if FAULTS[id].where == "kernel" else "torch" for id in asked}
    found = [id for id in CONTROLS if where_of(id) in built]
    if any(FAULTS[id].witness.operation == "forward" for id in asked):
        return found
    return [id for id in found if CONTROLS[id].subject().differentiable]


def where_of(id: str) -> Where:
    """Where a control is built: those of our kernel say so in their id."""
    return "kernel" if id.startswith("kernel") else "torch"


def chosen(ids: Sequence[str], where: Where | None, operation: str = ANY) -> list[str]:
    """The faults asked for, all where none is named; of one operation, those whose witness is of it.

    Raises CannotRun for a name that is not one.
    """
    for id in ids:
        if id not in FAULTS:
            near = ", ".join(get_close_matches(id, FAULTS, n=3)) or "none"
            raise CannotRun(f"There is no planted fault {id!r}; names like it: {near}.")
    asked = [id for id in FAULTS if (not ids or id in ids) and where in (None, FAULTS[id].where)]
    return [id for id in asked if operation in (ANY, FAULTS[id].witness.operation)]
