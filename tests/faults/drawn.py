"""The same cases on every run, and what the checks say of one."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import HealthCheck, Phase, given, seed, settings

from harness.errors import Refused
from harness.judging.judge import judge
from harness.judging.verdict import Verdict
from harness.running.attempt import attempt
from harness.running.devices import choose
from harness.subject.declaration import Subject
from strategies import AttentionCase

DEVICE = choose()


def cases(subject: Subject, count: int, **narrower: object) -> list[AttentionCase]:
    """Cases that the subject can take."""
    drawn: list[AttentionCase] = []

    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @seed(20)
    @given(case=subject.cases(**narrower))
    def keep(case):
        drawn.append(case)

    keep()
    return drawn


def verdicts(subject: Subject, case: AttentionCase, also: Collection[str] = ()) -> list[Verdict]:
    """What the checks say, the relations in `also` among them; nothing where the subject refuses the case."""
    try:
        return judge(attempt(subject, case, DEVICE), also)
    except Refused:
        return []
