"""`flashattest recall`: plant the known faults, then the controls, and collect what a campaign finds of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Protocol

from harness.campaign.campaign import Watch
from harness.errors import CannotRun
from harness.recall.faults import CONTROLS, FAULTS
from harness.recall.faults.registry import Where
from harness.recall.hunt import HuntLimits
from harness.recall.outcome import Recall
from harness.recall.trial import Trial, TrialResult, run_trials
from harness.subject.declaration import ANY

FEWEST_CASES = 200
"""A control has as many cases as the slowest fault took, and no fewer than this."""


class Show(Protocol):
    """Shows a recall while it runs."""

    @property
    def watch(self) -> Watch:
        """Called after every case."""

    def ended(self, recall: Recall, result: TrialResult) -> None:
        """Called after every fault and control."""


@dataclass(frozen=True)
class RecallPlan:
    """What a recall does: the limits of each hunt, the part of the harness left out, whether baselines run too."""

    limits: HuntLimits
    ablation: str = "whole"
    baselines: bool = False
    jobs: int = 1


def recall(ids: Sequence[str], plan: RecallPlan, show: Show) -> Recall:
    """Plant the faults, then the controls built as they are, each for as many cases as the slowest fault took.

    Ctrl-C ends it and keeps what was found.
    """
    controls = _controls(ids)
    limits = plan.limits
    outcome = Recall(limits.seed, limits.device, limits.seconds, plan.ablation)
    try:
        _run(outcome, [_trial(id, plan) for id in ids], plan, show)
        _run(outcome, [_trial(id, plan, _cases(outcome, where_of(id))) for id in controls], plan, show)
    except KeyboardInterrupt:
        outcome.not_run.update({id: "interrupted" for id in [*ids, *controls] if id not in outcome.results})
    return outcome


def _run(outcome: Recall, trials: Sequence[Trial], plan: RecallPlan, show: Show) -> None:
    for result in run_trials(trials, plan.jobs, show.watch):
        outcome.results[result.id] = result
        show.ended(outcome, result)


def _trial(id: str, plan: RecallPlan, cases: int | None = None) -> Trial:
    return Trial(id, replace(plan.limits, cases=cases), plan.ablation, plan.baselines)


def _cases(outcome: Recall, where: Where) -> int:
    taken = (outcome.results[fault.id].hunt.cases for fault in outcome.faults if fault.where == where)
    return max(FEWEST_CASES, *taken, 0)


def _controls(asked: Sequence[str]) -> list[str]:
    """Ids of the controls that are built as the faults are; only those with gradients where all faults are of those."""
    built = {"kernel" if FAULTS[id].where == "kernel" else "torch" for id in asked}
    found = [id for id in CONTROLS if where_of(id) in built]
    if any(FAULTS[id].witness.operation == "forward" for id in asked):
        return found
    return [id for id in found if CONTROLS[id].subject().differentiable]


def where_of(id: str) -> Where:
    """Where a control is built: those of our kernel say so in their id."""
    return "kernel" if id.startswith("kernel") else "torch"


def choose_faults(ids: Sequence[str], where: Where | None, operation: str = ANY) -> list[str]:
    """The ids of the faults asked for, or of all where none is named, narrowed by where they are and by operation.

    Raises CannotRun for a name that is not one.
    """
    for id in ids:
        if id not in FAULTS:
            near = ", ".join(get_close_matches(id, FAULTS, n=3)) or "none"
            raise CannotRun(f"There is no planted fault {id!r}; names like it: {near}.")
    asked = [id for id in FAULTS if (not ids or id in ids) and where in (None, FAULTS[id].where)]
    return [id for id in asked if operation in (ANY, FAULTS[id].witness.operation)]
