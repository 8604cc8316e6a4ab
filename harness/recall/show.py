"""What a recall prints: a line for each plant, a live line in a terminal, and the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.campaign.campaign import Campaign
from harness.recall.faults import EQUIVALENTS, FAULTS, Fault
from harness.recall.outcome import Recall, Share, shares, size
from harness.recall.trial import TrialResult

LIVE_SECONDS = 0.1


class Lines:
    """A line for each fault and control as it ends; below them, in a terminal, what is running."""

    def __init__(self, console: Console, total: int, live: Live | None) -> None:
        self._console, self._total, self._live = console, total, live
        self._ended, self._found, self._next = 0, 0, 0.0

    def watch(self, campaign: Campaign) -> None:
        """Update the live line, every LIVE_SECONDS at most."""
        now = time.monotonic()
        if self._live is None or now < self._next:
            return
        self._next = now + LIVE_SECONDS
        tally = campaign.tally
        doing = "shrinking" if campaign.is_shrinking else f"{tally.cases} cases, {tally.seconds:.0f} s"
        said = f"{self._ended} of {self._total} plants, {self._found} found   {campaign.subject.name}: {doing}"
        self._live.update(Text(said), refresh=True)

    def ended(self, recall: Recall, result: TrialResult) -> None:
        """Print the result of a plant or a control."""
        if result.id in FAULTS:
            fault = FAULTS[result.id]
            self._ended, self._found = self._ended + 1, len(recall.found)
            line, style = _fault_line(recall, fault), "" if recall.detections(fault) else "bold red"
        else:
            line, style = _control_line(result), "bold red" if result.hunt.seen else ""
        self._console.print(Text(line, style=style), soft_wrap=True)


@contextmanager
def lines(console: Console, total: int) -> Iterator[Lines]:
    """Print lines while a recall of `total` plants runs."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield Lines(console, total, live)
    else:
        yield Lines(console, total, None)


def _fault_line(recall: Recall, fault: Fault) -> str:
    hunt, found = recall.results[fault.id].hunt, recall.detections(fault)
    name = f"{fault.where:6} {fault.group} {fault.id:32}"
    after = f"{hunt.cases:5} cases {hunt.seconds:7.2f} s"
    if found:
        kinds = ", ".join(dict.fromkeys(f"{each.kind} by {each.check}" for each in found))
        return f"found    {name} {after}   {kinds}; shrunk to {size(found)}"
    others = ", ".join(dict.fromkeys(f"{each.kind} by {each.check}" for each in hunt.seen))
    return f"MISSED   {name} {after}{f'   seen, but no sign of it: {others}' if others else ''}"


def _control_line(result: TrialResult) -> str:
    hunt = result.hunt
    said = f"control  {result.id:32} {hunt.cases:5} cases {hunt.seconds:7.2f} s"
    if not hunt.seen:
        return f"silent   {said}"
    alarm = hunt.seen[0]
    return f"ALARM    {said}   {alarm.kind} by {alarm.check}: {alarm.sentence} {alarm.shrunk!r}"


def print_summary(console: Console, recall: Recall) -> None:
    """Print recall by where and by group, what was not run, the equivalents, the baselines, and what was missed."""
    style = "bold green" if recall.is_perfect else "bold red"
    console.print()
    for line in _summary(recall):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(_verdict(recall), style=style), soft_wrap=True)


def _summary(recall: Recall) -> Iterator[str]:
    for where, share in shares(recall, "where").items():
        yield f"{where:8} {_share(share)}"
    groups = ", ".join(f"{group} {share.found}/{share.total}" for group, share in shares(recall, "group").items())
    yield f"class    {groups}"
    yield f"first    {', '.join(f'{check} {n}' for check, n in recall.first_checks().most_common())}"
    for name in recall.baselines:
        alarms = recall.fired(name, recall.controls)
        yield f"         {name}: {_counts(recall, recall.found_by(name))}, {_alarms(alarms)}"
    for id, why in recall.not_run.items():
        yield f"not run  {id}: {why}"
    for id, equivalent in EQUIVALENTS.items():
        yield f"equal    {id}, which does not count: {equivalent.proof}"


def _share(share: Share) -> str:
    said = f"{share.found} of {share.total}"
    if share.cases is None or share.seconds is None:
        return said
    return (
        f"{said}   cases to the first failure: median {share.cases[0]:g}, at most {share.cases[1]}   "
        f"seconds: median {share.seconds[0]:.2f}, at most {share.seconds[1]:.2f} ({share.slowest})"
    )


def _counts(recall: Recall, found: list[Fault]) -> str:
    distinct = f"{len(recall.distinct_of(found))} of {len(recall.distinct)} faults"
    return f"{distinct} ({len(found)} of {len(recall.faults)} plants)"


def _alarms(alarms: list[str]) -> str:
    return f"false alarms on {', '.join(alarms)}" if alarms else "no false alarm"


def _verdict(recall: Recall) -> str:
    missed = f", missed: {', '.join(fault.id for fault in recall.missed)}" if recall.missed else ""
    silent = f"{len(recall.controls)} controls, {_alarms(list(recall.alarms))}"
    return f"recall {_counts(recall, recall.found)}{missed}; {silent}; seed {recall.seed}"
