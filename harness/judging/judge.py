"""Every failure that checks and relations see in an attempt."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from harness.judging.checks import CHECKS, Stage, look
from harness.judging.relations import hold
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt, attempt
from strategies import AttentionCase

_NOTHING_TO_SEE = frozenset({"raised", "wrong_shape_or_dtype"})
_OF_NUMBERS = frozenset(each.name for each in CHECKS.values() if each.stage is Stage.NUMBERS)
"""Where O is wrong, its gradients are too, and that would say nothing new."""


def judge(
    tried: Attempt, also: Collection[str] = (), others: bool = True, at: Callable[[str], None] = lambda name: None
) -> list[Verdict]:
    """Every failure that is seen; no check looks past a stage that failed, save mutation's.

    Where the checks find nothing, the result is held against the few relations that the case's hash chooses, and
    against those named in `also` in all their variants (names of checks may stand there too). others: False leaves
    the chosen ones out. at: told the name of each relation before it calls the subject again.
    """
    verdicts = _checked(tried)
    if not verdicts:
        try:
            return list(hold(tried, also, others, at))
        finally:
            tried.subject.end_call()  # a relation may keep a graph after its last call
    return _after_its_calls(tried, verdicts) if tried.case.history else verdicts


def _checked(tried: Attempt) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for stage in Stage:
        verdicts.extend(look(tried, (stage,)))
        if any(verdict.kind in _NOTHING_TO_SEE or verdict.check in _OF_NUMBERS for verdict in verdicts):
            break
    return verdicts


def _after_its_calls(tried: Attempt, verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts with those marked history_dependent that the case draws with its calls each time, and never without.

    Both are run again: a fault that comes and goes must not be laid on the calls.
    """
    bare = tried.case.replace(history=())
    without, with_them = (_checks_that_fail(tried, case) for case in (bare, tried.case))
    calls = ", ".join(tried.case.history)
    return [
        replace(v, kind="history_dependent", sentence=f"After the calls {calls}, and not without them: {v.sentence}")
        if v.check in with_them - without
        else v
        for v in verdicts
    ]


def _checks_that_fail(tried: Attempt, case: AttentionCase) -> set[str]:
    return {v.check for v in _checked(attempt(tried.subject, case, tried.device))}
