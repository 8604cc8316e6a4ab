"""Which verdicts are news: a campaign reports each fault once, and not what another fault implies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from harness.campaign.finding import FaultKey, fault_key
from harness.judging.relations import BITS, RELATIONS
from harness.judging.verdict import Verdict
from strategies import AttentionCase, TensorSpec
from strategies.case import INPUTS

T = TypeVar("T")


def is_implied(verdict: Verdict, by: Iterable[FaultKey]) -> bool:
    """Whether a verdict adds nothing to other faults.

    For a subject that does not repeat itself, nothing that compares two calls adds anything. A relation that finds
    numbers wrong by more than the budget repeats a check that found them wrong. A result within the budget that breaks
    a promise bit for bit is a fault of its own.
    """
    others = [fault for fault in by if fault[:2] != fault_key(verdict)]
    compares_calls = verdict.check in RELATIONS and verdict.kind != "output_aliased"
    is_of_calls = compares_calls or verdict.kind in ("history_dependent", "not_repeatable")
    if is_of_calls and any(fault[0] == "not_repeatable" for fault in others):
        return True
    if not compares_calls or BITS in verdict.parts:
        return False
    return any(_group(kind) == _group(verdict.kind) for kind, check, *_ in others if check != verdict.check)


def _group(kind: str) -> str:
    return "wrong_values" if kind == "not_finite" else kind


def relations_last(items: Iterable[tuple[FaultKey, T]]) -> list[tuple[FaultKey, T]]:
    """Return the items with the relations' faults at the end, since a check's fault may imply them."""
    return sorted(items, key=lambda item: item[0][1] in RELATIONS)


def forward_of(case: AttentionCase) -> AttentionCase:
    """Return the forward of a case with values and layouts that hide nothing: normal values, and no two rows alike.

    A wrong gradient is a fault of its own only where this passes. Where all rows of V are equal, for example, no mask
    changes O, but it changes dV.
    """
    q, k, v = (_distinct(spec) for spec in (case.q, case.k, case.v))
    return case.replace(operation="forward", q=q, k=k, v=v, dO=TensorSpec(), dLSE=None, needs_grad=INPUTS)


def _distinct(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(seed=spec.seed, layout="contiguous" if spec.layout.startswith("expanded") else spec.layout)
