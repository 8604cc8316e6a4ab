"""The outcome of a campaign, for people (a summary) and for programs (`--json`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.bug_report import commands
from harness.campaign import Campaign, Fault, Finding
from harness.show import story
from harness.verdict import finite_or_text

Saved = Mapping[Fault, Path]


def print_outcome(console: Console, campaign: Campaign, saved: Saved) -> None:
    """Print every failure as a bug report, then the summary."""
    for fault, finding in campaign.findings.items():
        _print_finding(console, campaign, finding, saved.get(fault))
    _print_summary(console, campaign)


def _print_finding(console: Console, campaign: Campaign, finding: Finding, file: Path | None) -> None:
    console.print()
    console.print(Text(story(campaign.subject.name, finding.shrunk, finding.verdict)), soft_wrap=True)
    console.print(Text(f"  worst    {finding.worst_ratio:.3g} x the budget: {finding.worst!r}"), soft_wrap=True)
    met = f"  first    after {finding.cases_to_first} cases, {finding.seconds_to_first:.2f} s"
    console.print(Text(met), soft_wrap=True)
    if file is not None:
        console.print(Text(commands(file)), soft_wrap=True)


def _print_summary(console: Console, campaign: Campaign) -> None:
    tally = campaign.tally
    refused = sum(tally.refused.values())
    console.print()
    counted = (
        f"{tally.cases} cases in {tally.seconds:.1f} s ({tally.rate:.1f}/s), {refused} refused, seed {campaign.seed}"
    )
    console.print(Text(f"{campaign.subject.name} on {campaign.device}: {counted}"), soft_wrap=True)
    for reason, count in tally.refused.most_common(5):
        console.print(Text(f"  refused {count} times: {reason}"), soft_wrap=True)
    for dtype, closest in sorted(tally.closest.items()):
        met = f"  {dtype}: worst error/budget {closest.ratio:.3g}, at {closest.where} of {closest.case!r}"
        console.print(Text(met), soft_wrap=True)
    console.print(_coverage(campaign), soft_wrap=True)
    for axis, classes in tally.coverage.missed(campaign.subject).items():
        console.print(Text(f"  never hit: {axis}: {', '.join(classes)}"), soft_wrap=True)
    count = len(campaign.findings)
    style = "bold red" if count else "bold green"
    console.print(Text(f"{count} failure{'' if count == 1 else 's'}", style=style))


def _coverage(campaign: Campaign) -> Text:
    shares = campaign.tally.coverage.shares(campaign.subject)
    return Text("  covered: " + ", ".join(f"{axis} {hit}/{possible}" for axis, (hit, possible) in shares.items()))


def to_json(campaign: Campaign, saved: Saved) -> dict[str, Any]:
    """What `--json` holds."""
    tally = campaign.tally
    return {
        "subject": campaign.subject.name,
        "device": campaign.device,
        "seed": campaign.seed,
        "cases": tally.cases,
        "refused": sum(tally.refused.values()),
        "seconds": round(tally.seconds, 3),
        "cases_per_second": round(tally.rate, 2),
        "worst": {dtype: finite_or_text(closest.ratio) for dtype, closest in tally.closest.items()},
        "coverage": {axis: dict(hits) for axis, hits in tally.coverage.hits.items()},
        "never_hit": tally.coverage.missed(campaign.subject),
        "failures": [_failure(finding, saved.get(fault)) for fault, finding in campaign.findings.items()],
    }


def _failure(finding: Finding, file: Path | None) -> dict[str, Any]:
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
    }


def write_json(path: Path, campaign: Campaign, saved: Saved) -> bool:
    """Write the outcome to a file. Where that fails, say so on stderr, in one sentence, and return False."""
    try:
        path.write_text(json.dumps(to_json(campaign, saved), indent=2) + "\n")
    except OSError as error:
        print(f"flashattest: The outcome cannot be written to {path}: {error.strerror or error}.", file=sys.stderr)
        return False
    return True
