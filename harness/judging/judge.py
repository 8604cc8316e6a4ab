"""Runs the checks and relations on an attempt and collects their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from harness.judging.checks import CHECKS, Stage, run_checks
from harness.judging.relations import check_relations
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt, attempt
from strategies import AttentionCase

_UNUSABLE_RESULTS = frozenset({"raised", "wrong_shape_or_dtype"})
"""The kinds of failures after which there are no numbers to check."""
_NUMBER_CHECKS = frozenset(each.name for each in CHECKS.values() if each.stage is Stage.NUMBERS)
"""If O is wrong, its gradients are too, which is nothing new."""


def judge(
    tried: Attempt, also: Collection[str] = (), others: bool = True, at: Callable[[str], None] = lambda name: None
) -> list[Verdict]:
    """Return every failure; an exception, a wrong form, or a wrong O or LSE skips the later stages.

    If the checks find nothing, the result is put to a few relations selected by the case's hash, and to those named in
    `also`, in all their variants (names of checks are ignored there). others: False leaves the selected ones out. at:
    called with the name of each relation before it calls the subject again.
    """
    verdicts = _check(tried)
    if not verdicts:
        try:
            return list(check_relations(tried, also, others, at))
        finally:
            tried.subject.end_call()  # a relation may keep a graph after its last call
    return _mark_history_dependent(tried, verdicts) if tried.case.history else verdicts


def _check(tried: Attempt) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for stage in Stage:
        verdicts.extend(run_checks(tried, (stage,)))
        if any(verdict.kind in _UNUSABLE_RESULTS or verdict.check in _NUMBER_CHECKS for verdict in verdicts):
            break
    return verdicts


def _mark_history_dependent(tried: Attempt, verdicts: list[Verdict]) -> list[Verdict]:
    """Mark the verdicts that depend on the case's earlier calls: they fail with them, and pass without them.

    Both are run again, so that a fault that comes and goes is not blamed on the calls.
    """
    bare = tried.case.replace(history=())
    without, with_them = (_failed_checks(tried, case) for case in (bare, tried.case))
    calls = ", ".join(tried.case.history)
    return [
        replace(v, kind="history_dependent", sentence=f"After the calls {calls}, and not without them: {v.sentence}")
        if v.check in with_them - without
        else v
        for v in verdicts
    ]


def _failed_checks(tried: Attempt, case: AttentionCase) -> set[str]:
    return {v.check for v in _check(attempt(tried.subject, case, tried.device))}
