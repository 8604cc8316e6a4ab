"""Tells two causes of the same symptom apart, by what the shrunk case of each needs.

A symptom is a kind of failure and the check that found it. If a case shrinks to one that is causal, say, then a case
that is not causal and fails in the same way has another cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from harness.campaign.finding import FaultKey, Finding, fault_key
from harness.judging.verdict import Verdict
from strategies import AttentionCase, TensorSpec
from strategies.case import INPUTS
from strategies.features import FEATURES

MOST_CAUSES = 6
"""Causes of one symptom that a campaign reports; what fails after that counts as known."""

UNSTEADY = ("not_repeatable", "history_dependent")
"""The case of such a finding does not show what it needs."""

LENGTHS = (1, 16, 64)
"""A length above one of these may matter to a kernel."""


def needs(case: AttentionCase) -> frozenset[str]:
    """Return in which ways a case differs from the smallest default one, in classes that are coarse on purpose."""
    return frozenset([*_sizes(case), *_features(case), *_tensors(case)])


def _sizes(case: AttentionCase) -> Iterator[str]:
    g = case.geometry
    yield from (f"{name} > {n}" for name in ("Nq", "Nk") for n in LENGTHS if getattr(g, name) > n)
    if g.Nq == 0:
        yield "no query"
    if min(case.lengths) == 0:
        yield "no key"
    if g.B * g.Hq > 1:
        yield "several heads or entries"
    if g.group > 1:
        yield "shared heads"
    if g.d & (g.d - 1):
        yield "d no power of 2"
    if g.d > 128:
        yield "d > 128"


def _features(case: AttentionCase) -> Iterator[str]:
    for feature in FEATURES.values():
        if feature.is_on(case.features):
            yield from (f"{axis.name} {each}" for axis in feature.axes() for each in axis.of(case))


def _tensors(case: AttentionCase) -> Iterator[str]:
    specs = [spec for spec in (case.q, case.k, case.v, case.dO, case.dLSE) if spec is not None]
    if any(spec.layout != TensorSpec().layout for spec in specs):
        yield "a layout"
    if any(spec.values != TensorSpec().values for spec in specs):
        yield "values"
    if case.dtype != "fp32":
        yield "16 bits"
    if case.history:
        yield "earlier calls"
    if case.dLSE is not None:
        yield "dLSE"
    if case.has_gradients and case.needs_grad != INPUTS:
        yield "some gradients alone"


def explains(fault: FaultKey, finding: Finding, case: AttentionCase, verdict: Verdict) -> bool:
    """Whether a failure of a case has the cause of a finding, as far as can be told: the case has all that it needs."""
    if fault_key(verdict) not in (fault[:2], fault_key(finding.verdict)):
        return False
    if finding.verdict.kind in UNSTEADY:
        return True
    has_all = not finding.is_simple or needs(finding.shrunk) <= needs(case)
    return has_all and is_same_place(finding.verdict, verdict)


def is_same_place(one: Verdict, other: Verdict) -> bool:
    """Whether two failures may be of the same line: an exception, or a crash, at another line has another cause."""
    return one.place is None or other.place is None or one.place == other.place


def is_explained(findings: Mapping[FaultKey, Finding], case: AttentionCase, verdict: Verdict) -> bool:
    """Whether a failure has the cause of one of the findings, or its symptom has had enough of them."""
    of_symptom = sum(fault[:2] == fault_key(verdict) for fault in findings)
    if of_symptom >= MOST_CAUSES:
        return True
    return any(explains(fault, finding, case, verdict) for fault, finding in findings.items())


def superseded(findings: Mapping[FaultKey, Finding], fault: FaultKey, by: Finding) -> list[FaultKey]:
    """Return the findings whose cause a new one explains, since it needs less."""
    if by.verdict.kind in UNSTEADY or not by.is_simple:
        return []
    return [key for key, old in findings.items() if explains(fault, by, old.shrunk, old.verdict)]


def free_key(verdict: Verdict, taken: Iterable[FaultKey]) -> FaultKey:
    """Return a key for another cause: the symptom, and a number from the second cause on."""
    symptom, taken = fault_key(verdict), set(taken)
    numbered = (symptom if n == 1 else (*symptom, str(n)) for n in range(1, len(taken) + 2))
    return next(key for key in numbered if key not in taken)


def describe_cause(finding: Finding) -> str:
    """Return what the shrunk case needs, in words; where the wrong element lies if there is one."""
    found = sorted(needs(finding.shrunk)) or ["nothing but a call"]
    return f"needs {', '.join(found)}{_element(finding)}"


def _element(finding: Finding) -> str:
    where, tensor = finding.verdict.where, finding.verdict.tensor
    if where is None or tensor is None or len(where) < 3:
        return ""
    g = finding.shrunk.geometry
    rows = g.Nk if tensor in ("dK", "dV") else g.Nq
    heads = g.Hk if tensor in ("dK", "dV") else g.Hq
    parts = [_which(where[2], rows, "row"), _which(where[1], heads, "head"), _which(where[0], g.B, "batch entry")]
    named = [part for part in parts if part]
    return f"; {tensor} wrong at the {', '.join(named)}" if named else ""


def _which(index: int, count: int, what: str) -> str:
    if count < 2:
        return ""
    return f"first {what}" if index == 0 else f"last {what}" if index == count - 1 else f"{what} {index}"
