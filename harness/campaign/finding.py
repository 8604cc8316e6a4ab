"""What a campaign finds: faults, identified by their keys, and the finding that reports each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.judging.verdict import Verdict
from strategies import AttentionCase

FaultKey = tuple[str, ...]
"""Identifies a fault within a campaign: the kind of its verdicts, the check that made them, and a number if it is not
the first cause of these two."""


def fault_key(verdict: Verdict) -> FaultKey:
    """Return the key of the first fault that a verdict may report: its kind and its check."""
    return (verdict.kind, verdict.check)


@dataclass(frozen=True)
class Finding:
    """A fault that a campaign found: the smallest case, the worst one, and when it was first met.

    rate: the share of reruns of the smallest case that failed; less than 1 makes it not_repeatable. file: in the
    corpus; None where it is not saved. cut_short: shrinking ended for lack of time: a smaller case may fail too.
    is_simple: no part of the smallest case can have its default value, so that it shows what the fault needs.
    """

    verdict: Verdict
    shrunk: AttentionCase
    first: AttentionCase
    worst: AttentionCase
    worst_ratio: float
    cases_to_first: int
    seconds_to_first: float
    rate: float = 1.0
    file: Path | None = None
    cut_short: bool = False
    is_simple: bool = True
