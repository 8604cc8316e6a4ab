"""The outcome of a campaign, printed for people and written for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.campaign.cause import describe_cause
from harness.campaign.finding import Finding
from harness.campaign.parallel.jobs import AnyCampaign
from harness.corpus.bug_report import commands
from harness.judging.story import story
from harness.report.campaign_json import to_json


def print_outcome(console: Console, campaign: AnyCampaign) -> None:
    """Print every failure as a bug report, then the summary."""
    for finding in campaign.findings.values():
        _print_finding(console, campaign, finding)
    _print_summary(console, campaign)


def _print_finding(console: Console, campaign: AnyCampaign, finding: Finding) -> None:
    console.print()
    console.print(Text(story(campaign.subject.name, finding.shrunk, finding.verdict)), soft_wrap=True)
    console.print(Text(f"  worst    {finding.worst_ratio:.3g} x the budget: {finding.worst!r}"), soft_wrap=True)
    console.print(Text(f"  cause    {describe_cause(finding)}"), soft_wrap=True)
    if finding.cut_short:
        console.print(Text("  shrunk   until its time was up: a smaller case may fail too"), soft_wrap=True)
    met = f"  first    after {finding.cases_to_first} cases, {finding.seconds_to_first:.2f} s"
    console.print(Text(met), soft_wrap=True)
    if finding.file is not None:
        console.print(Text(commands(finding.file)), soft_wrap=True)


def _print_summary(console: Console, campaign: AnyCampaign) -> None:
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
    for finding in campaign.findings.values():
        line = f"  {finding.verdict.kind} ({finding.verdict.check}): {describe_cause(finding)}"
        console.print(Text(f"{line}  {finding.file or ''}".rstrip()), soft_wrap=True)
    count = len(campaign.findings)
    style = "bold red" if count else "bold green"
    console.print(Text(f"{count} failure{'' if count == 1 else 's'}", style=style))


def _gradients(campaign: AnyCampaign) -> str:
    """Whether the subject has gradients, how that is known, and how many cases asked for them."""
    subject, count = campaign.subject, campaign.tally.backwards
    if subject.operation == "forward":
        return "not asked for"
    if not subject.differentiable:
        return f"no ({subject.differentiable_by})"
    return f"yes ({subject.differentiable_by}), of {count} case{'' if count == 1 else 's'}"


def _coverage(campaign: AnyCampaign) -> Text:
    shares = campaign.tally.coverage.shares(campaign.subject)
    return Text("  covered: " + ", ".join(f"{axis} {hit}/{possible}" for axis, (hit, possible) in shares.items()))


def write_json(path: Path, campaign: AnyCampaign) -> bool:
    """Write the outcome to a file. Where that fails, print one sentence on stderr and return False."""
    outcome = json.dumps(to_json(campaign), indent=2) + "\n"
    try:
        path.write_text(outcome)
    except OSError as error:
        print(f"flashattest: The outcome cannot be written to {path}: {error.strerror or error}.", file=sys.stderr)
        return False
    return True
