"""Turns a fault that Hypothesis has shrunk into a finding: shorter lengths, reruns, and the calls that it needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.campaign.cause import is_same_place
from harness.campaign.finding import Finding, fault_key
from harness.campaign.shorten import shorten
from harness.judging.examine import Examiner, Question
from harness.judging.verdict import Verdict
from harness.subject.declaration import Subject
from strategies import AttentionCase
from strategies.features import VARIATIONS

RERUNS = 5
PROCESS_ENDS = ("crashed", "timed_out")


@dataclass
class Shrinking:
    """A fault that is being shrunk.

    smallest: the latest failing case, which Hypothesis makes smaller and smaller, and its verdict. worst: the case with
    the largest error/budget. cases, seconds: when the fault was first met. enough: the error/budget from which on a
    smaller case counts as failing. until: when shrinking must end, by the monotonic clock. is_cut_short: it ended so.
    is_simple: no part of the smallest case can have its default value.
    """

    first: AttentionCase
    smallest: tuple[AttentionCase, Verdict]
    worst: tuple[float, AttentionCase]
    cases: int
    seconds: float
    enough: float
    until: float = math.inf
    is_cut_short: bool = False
    is_simple: bool = True

    @classmethod
    def begin(
        cls, case: AttentionCase, verdict: Verdict, cases: int, seconds: float, until: float = math.inf
    ) -> Shrinking:
        """Begin with the first failing case."""
        return cls(case, (case, verdict), (verdict.ratio, case), cases, seconds, verdict.ratio**0.5, until)

    @property
    def is_out_of_time(self) -> bool:
        """Whether shrinking must end; from then on it counts as cut short."""
        is_out_of_time = time.monotonic() >= self.until
        self.is_cut_short = self.is_cut_short or is_out_of_time
        return is_out_of_time

    def follow(self, case: AttentionCase, verdict: Verdict) -> bool:
        """Take a smaller failing case; return False where it is too near the budget to be worth shrinking to."""
        if verdict.ratio < self.enough:
            return False
        self.smallest = (case, verdict)
        self.worst = max(self.worst, (verdict.ratio, case), key=lambda pair: pair[0])
        return True

    def finding(self, rate: float = 1.0) -> Finding:
        """Return the finding that the smallest case makes so far."""
        case, verdict = self.smallest
        worst_ratio, worst = self.worst
        met = (self.cases, self.seconds)
        finding = Finding(verdict, case, self.first, worst, worst_ratio, *met, rate)
        return replace(finding, cut_short=self.is_cut_short, is_simple=self.is_simple)


IsKnown = Callable[[AttentionCase, Verdict], bool]
"""Whether a failure of a case has a cause that was found before."""


def settle(shrinking: Shrinking, examiner: Examiner, subject: Subject, is_known: IsKnown) -> Finding:
    """Shorten the smallest case, rerun it, find the calls that it needs, and return the finding."""
    was_cut_short, shrinking.is_cut_short = shrinking.is_cut_short, False
    case, verdict = shrinking.smallest = _shorten(shrinking, examiner, subject, is_known)
    shrinking.is_simple = not shrinking.is_cut_short
    shrinking.is_cut_short = shrinking.is_cut_short or was_cut_short
    # A hang costs its time limit in each run.
    reruns = RERUNS if verdict.kind != "timed_out" else 1
    failures = [_rerun(case, verdict, examiner) for _ in range(reruns)]
    verdict = next((failure for failure in failures if failure is not None), verdict)
    rate = sum(failure is not None for failure in failures) / reruns
    if 0 < rate < 1:
        shrinking.smallest = (case, _not_repeatable(verdict, rate))
    else:
        shrinking.smallest = _with_history(shrinking, verdict, rate, examiner)
    return shrinking.finding(rate)


def _shorten(
    shrinking: Shrinking, examiner: Examiner, subject: Subject, is_known: IsKnown
) -> tuple[AttentionCase, Verdict]:
    """The smallest case, as simple and short as it can be while it still fails clearly."""
    smallest = shrinking.smallest

    def fails(case: AttentionCase) -> bool:
        nonlocal smallest
        if shrinking.is_out_of_time:
            return False
        found = _rerun(case, shrinking.smallest[1], examiner)
        if found is None or not is_same_place(found, shrinking.smallest[1]) or found.ratio < shrinking.enough:
            return False
        if is_known(case, found):
            return False
        smallest = (case, found)
        return True

    shorten(shrinking.smallest[0], fails, subject)
    return smallest


def _rerun(case: AttentionCase, verdict: Verdict, examiner: Examiner) -> Verdict | None:
    """Run the case once more: the same fault with the oracles' votes, or None where it passes this time."""
    found = examiner.examine(Question.again(case, verdict.check)).verdicts
    return next((each for each in found if fault_key(each) == fault_key(verdict)), None)


def _with_history(
    shrinking: Shrinking, verdict: Verdict, rate: float, examiner: Examiner
) -> tuple[AttentionCase, Verdict]:
    """The case with the calls that it takes to fail in a new process.

    A case that fails in a new process needs no history; otherwise the subject has kept state of the campaign's earlier
    calls. One of the known variations, called before the case, may leave the same state.
    """
    case = shrinking.smallest[0]
    if _fails_in_new_process(case.replace(history=()), verdict.check, examiner):
        return case, verdict if rate else _not_repeatable(verdict, rate)
    for tried in (case, *_after_one_call(case), *_after_one_call(shrinking.first)):
        if tried.history and _fails_in_new_process(tried, verdict.check, examiner):
            calls = ", ".join(tried.history)
            return tried, _history_dependent(verdict, f"It takes these calls before it in the same process: {calls}.")
    if not rate:
        return case, _not_repeatable(verdict, rate)
    sentence = "It takes calls before it that this campaign made: a new process passes it."
    return case, _history_dependent(verdict, sentence)


def _fails_in_new_process(case: AttentionCase, check: str, examiner: Examiner) -> bool:
    """Whether a check fails in a new process, or the process ends; True where no new process can be had."""
    examined = examiner.examine_fresh(Question.again(case, check))
    return examined is None or any(each.check == check or each.kind in PROCESS_ENDS for each in examined.verdicts)


def _after_one_call(case: AttentionCase) -> list[AttentionCase]:
    return [case.replace(history=(name,)) for name in sorted(VARIATIONS)]


def _history_dependent(verdict: Verdict, sentence: str) -> Verdict:
    if verdict.kind == "history_dependent":
        return verdict
    return replace(verdict, kind="history_dependent", sentence=f"{verdict.sentence} {sentence}")


def _not_repeatable(verdict: Verdict, rate: float) -> Verdict:
    sentence = f"{verdict.sentence} It failed in {rate:.0%} of {RERUNS} reruns."
    return replace(verdict, kind="not_repeatable", sentence=sentence)
