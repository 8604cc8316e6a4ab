"""The outcome of a campaign as JSON: what `--json` holds, and what `flashattest report` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.campaign.cause import describe_cause, needs
from harness.campaign.finding import FaultKey, Finding
from harness.campaign.parallel.jobs import AnyCampaign
from harness.campaign.tally import Closest
from harness.corpus.entries import verdict_to_json, versions
from harness.judging.verdict import finite_or_text
from harness.report.again import NOTHING_TO_DRAW, Asked, Picture, pictures

CAMPAIGN_FORMAT = 1
"""Keys are added under the same format, and none is renamed or dropped."""

MOST_REFUSALS = 20
Pictures = Mapping[str, Picture]
"""Of a failure's "smallest" and "worst" case and of the smallest made "larger"."""


def to_json(campaign: AnyCampaign) -> dict[str, Any]:
    """Return what `--json` holds. Each finding with wrong numbers is run a few times more, for its heat maps."""
    tally, drawn = campaign.tally, draw(campaign)
    return {
        "format": CAMPAIGN_FORMAT,
        "subject": campaign.subject.name,
        "device": campaign.device,
        "seed": campaign.seed,
        "cases": tally.cases,
        "refused": sum(tally.refused.values()),
        "seconds": round(tally.seconds, 3),
        "cases_per_second": round(tally.rate, 2),
        "worst": _ratios(tally.closest),
        "operation": campaign.subject.operation,
        "gradients": {
            "differentiable": campaign.subject.differentiable,
            "by": campaign.subject.differentiable_by,
            "cases": tally.backwards,
            "worst": _ratios(tally.closest_gradients),
        },
        "coverage": {axis: dict(hits) for axis, hits in tally.coverage.hits.items()},
        "never_hit": tally.coverage.missed(campaign.subject),
        "distribution": tally.distribution.to_json(),
        "refusals": dict(tally.refused.most_common(MOST_REFUSALS)),
        "versions": versions(),
        "failures": [_failure(finding, drawn.get(fault, {})) for fault, finding in campaign.findings.items()],
    }


def _ratios(closest: Mapping[str, Closest]) -> dict[str, Any]:
    return {dtype: finite_or_text(each.ratio) for dtype, each in closest.items()}


def _failure(finding: Finding, drawn: Pictures) -> dict[str, Any]:
    file = finding.file
    worst = {"ratio": finite_or_text(finding.worst_ratio), "case": finding.worst.to_json()}
    return {
        "kind": finding.verdict.kind,
        "check": finding.verdict.check,
        "case": finding.first.to_json(),
        "id": None if file is None else file.stem,
        "ratio": finite_or_text(finding.verdict.ratio),
        "cases_to_first": finding.cases_to_first,
        "seconds_to_first": round(finding.seconds_to_first, 3),
        "shrunk": finding.shrunk.to_json(),
        "rate": finding.rate,
        "cause": describe_cause(finding),
        "needs": sorted(needs(finding.shrunk)),
        "cut_short": finding.cut_short,
        "corpus_file": None if file is None else str(file),
        "verdict": verdict_to_json(finding.verdict),
        "worst": worst | _picture(drawn.get("worst")),
        "larger": _larger(drawn.get("larger")),
        **_picture(drawn.get("smallest")),
    }


def _picture(drawn: Picture | None) -> dict[str, Any]:
    """A heat map or null, and then the sentence that says why."""
    if drawn is None:
        return {"map": None, "no_map": NOTHING_TO_DRAW}
    return {"map": drawn.map and drawn.map.to_json(), "no_map": drawn.sentence or None}


def _larger(drawn: Picture | None) -> dict[str, Any] | None:
    if drawn is None or drawn.map is None or drawn.case is None:
        return None
    return {"case": drawn.case.to_json(), "map": drawn.map.to_json()}


def draw(campaign: AnyCampaign) -> dict[FaultKey, dict[str, Picture]]:
    """Run each finding with wrong numbers a few times more, in a worker, to see where in the tensor they are."""
    asked = {
        (fault, name): question
        for fault, finding in campaign.findings.items()
        if finding.verdict.tensor is not None
        for name, question in _all_asked(campaign, finding).items()
    }
    drawn: dict[FaultKey, dict[str, Picture]] = {}
    for (fault, name), picture in zip(asked, pictures(list(asked.values())), strict=True):
        drawn.setdefault(fault, {})[name] = picture
    return drawn


def _all_asked(campaign: AnyCampaign, finding: Finding) -> dict[str, Asked]:
    subject, verdict = campaign.subject, finding.verdict
    smallest = Asked(subject.name, campaign.device, finding.shrunk, verdict.kind, verdict.check, subject.refuses)
    return {
        "smallest": smallest,
        "worst": replace(smallest, case=finding.worst),
        "larger": replace(smallest, made_larger=True),
    }
