"""The outcome of a campaign, for people (a summary) and for programs (`--json`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.campaign.campaign import Account, Fault, Finding
from harness.campaign.tally import Closest
from harness.corpus.bug_report import commands
from harness.corpus.entries import verdict_to_json, versions
from harness.judging.story import story
from harness.judging.verdict import finite_or_text
from harness.report.again import NOTHING_TO_DRAW, Asked, Picture, pictures

FORMAT = 1
"""Of what `--json` holds. Keys are added under the same format, and none is renamed or dropped."""

MOST_REFUSALS = 20
Saved = Mapping[Fault, Path]
Pictures = Mapping[str, Picture]
"""Of a failure's "smallest" and "worst" case and of the smallest made "larger"."""


def print_outcome(console: Console, campaign: Account, saved: Saved) -> None:
    """Print every failure as a bug report, then the summary."""
    for fault, finding in campaign.findings.items():
        _print_finding(console, campaign, finding, saved.get(fault))
    _print_summary(console, campaign)


def _print_finding(console: Console, campaign: Account, finding: Finding, file: Path | None) -> None:
    console.print()
    console.print(Text(story(campaign.subject.name, finding.shrunk, finding.verdict)), soft_wrap=True)
    console.print(Text(f"  worst    {finding.worst_ratio:.3g} x the budget: {finding.worst!r}"), soft_wrap=True)
    met = f"  first    after {finding.cases_to_first} cases, {finding.seconds_to_first:.2f} s"
    console.print(Text(met), soft_wrap=True)
    if file is not None:
        console.print(Text(commands(file)), soft_wrap=True)


def _print_summary(console: Console, campaign: Account) -> None:
    tally = campaign.tally
    refused = sum(tally.refused.values())
    console.print()
    counted = (
        f"{tally.cases} cases in {tally.seconds:.1f} s ({tally.rate:.1f}/s), {refused} refused, seed {campaign.seed}"
    )
    console.print(Text(f"{campaign.subject.name} on {campaign.device}: {counted}"), soft_wrap=True)
    for reason, count in tally.refused.most_common(5):
        console.print(Text(f"  refused {count} times: {reason}"), soft_wrap=True)
    console.print(Text(f"  gradients: {_gradients(campaign)}"), soft_wrap=True)
    for dtype, closest in [*sorted(tally.closest.items()), *sorted(tally.closest_gradients.items())]:
        met = f"  {dtype}: worst error/budget {closest.ratio:.3g}, at {closest.where} of {closest.case!r}"
        console.print(Text(met), soft_wrap=True)
    console.print(_coverage(campaign), soft_wrap=True)
    for axis, classes in tally.coverage.missed(campaign.subject).items():
        console.print(Text(f"  never hit: {axis}: {', '.join(classes)}"), soft_wrap=True)
    count = len(campaign.findings)
    style = "bold red" if count else "bold green"
    console.print(Text(f"{count} failure{'' if count == 1 else 's'}", style=style))


def _gradients(campaign: Account) -> str:
    """Whether the subject has gradients, how that is known, and how many cases asked for them."""
    subject, count = campaign.subject, campaign.tally.backwards
    if subject.operation == "forward":
        return "not asked for"
    if not subject.differentiable:
        return f"no ({subject.differentiable_by})"
    return f"yes ({subject.differentiable_by}), of {count} case{'' if count == 1 else 's'}"


def _coverage(campaign: Account) -> Text:
    shares = campaign.tally.coverage.shares(campaign.subject)
    return Text("  covered: " + ", ".join(f"{axis} {hit}/{possible}" for axis, (hit, possible) in shares.items()))


def to_json(campaign: Account, saved: Saved, drawn: Mapping[Fault, Pictures] | None = None) -> dict[str, Any]:
    """What `--json` holds. drawn: heat maps of each fault."""
    tally, drawn = campaign.tally, drawn or {}
    return {
        "format": FORMAT,
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
        "failures": [
            _failure(finding, saved.get(fault), drawn.get(fault, {})) for fault, finding in campaign.findings.items()
        ],
    }


def _ratios(closest: Mapping[str, Closest]) -> dict[str, Any]:
    return {dtype: finite_or_text(each.ratio) for dtype, each in closest.items()}


def _failure(finding: Finding, file: Path | None, drawn: Pictures) -> dict[str, Any]:
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


def draw(campaign: Account) -> dict[Fault, dict[str, Picture]]:
    """Run each finding with wrong numbers a few times more, in a process of its own, to see where they stand."""
    asked = {
        (fault, name): question
        for fault, finding in campaign.findings.items()
        if finding.verdict.tensor is not None
        for name, question in _all_asked(campaign, finding).items()
    }
    drawn: dict[Fault, dict[str, Picture]] = {}
    for (fault, name), picture in zip(asked, pictures(list(asked.values())), strict=True):
        drawn.setdefault(fault, {})[name] = picture
    return drawn


def _all_asked(campaign: Account, finding: Finding) -> dict[str, Asked]:
    subject, verdict = campaign.subject, finding.verdict
    smallest = Asked(subject.name, campaign.device, finding.shrunk, verdict.kind, verdict.check, subject.refuses)
    return {
        "smallest": smallest,
        "worst": replace(smallest, case=finding.worst),
        "larger": replace(smallest, made_larger=True),
    }


def write_json(path: Path, campaign: Account, saved: Saved) -> bool:
    """Write the outcome to a file. Where that fails, say so on stderr, in one sentence, and return False."""
    outcome = json.dumps(to_json(campaign, saved, draw(campaign)), indent=2) + "\n"
    try:
        path.write_text(outcome)
    except OSError as error:
        print(f"flashattest: The outcome cannot be written to {path}: {error.strerror or error}.", file=sys.stderr)
        return False
    return True
