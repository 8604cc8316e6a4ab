"""In a GitHub workflow: failures as annotations on the subject's file, and a summary of the step in Markdown.

Nothing happens unless the environment variable GITHUB_ACTIONS is "true".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.campaign.parallel.jobs import AnyCampaign
from harness.corpus.replay import Replayed
from harness.judging.story import headline, printable
from harness.subject.pretend import option
from harness.subject.signature import split_signature


def report_campaign(campaign: AnyCampaign) -> None:
    """Annotate what a campaign found, and add its outcome to the step's summary."""
    if not _is_workflow():
        return
    name, tally, found = campaign.subject.name, campaign.tally, campaign.findings.values()
    for finding in found:
        message = f"{headline(finding.verdict)}\n{finding.shrunk!r}"
        again = f"\nflashattest replay {finding.file}{option()}" if finding.file else ""
        _annotate("error", _file_of(name, finding.file), f"{name}: {finding.verdict.kind}", message + again)
    rows = [(f.verdict.kind, f.verdict.check, repr(f.shrunk), str(f.file or "")) for f in found]
    counted = (
        f"{tally.cases} cases in {tally.seconds:.0f} s, {sum(tally.refused.values())} refused, {len(found)} failed"
    )
    title = f"{_mark(not found)} Fuzzed {_code(name)} on {campaign.device}: {counted}, seed {campaign.seed}"
    _summarise(title, ("kind", "check", "smallest case", "saved"), rows)


def report_replays(replays: Sequence[Replayed]) -> None:
    """Annotate what is not fixed, and add all replays to the step's summary."""
    if not _is_workflow():
        return
    for each in replays:
        if each.status != "FIXED":
            level = "warning" if each.status == "KNOWN" else "error"
            subject = each.entry.subject if each.entry else ""
            _annotate(level, _file_of(subject, each.path), f"{each.status} {subject}".strip(), each.sentence)
    names = [(each.entry.subject, each.entry.id) if each.entry else ("", str(each.path)) for each in replays]
    rows = [(each.status, *name, each.sentence) for each, name in zip(replays, names, strict=True)]
    bad = sum(each.status in ("FAILED", "ERROR") for each in replays)
    title = f"{_mark(not bad)} Replayed {len(replays)} saved failures, {bad} of them not fixed"
    _summarise(title, ("", "subject", "failure", ""), rows)


def _is_workflow() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _annotate(level: str, file: Path | None, title: str, message: str) -> None:
    """Print a workflow command. Text from a saved file cannot start a command of its own: it holds no line end."""
    lines = "\n".join(printable(line) for line in message.split("\n"))
    where = f"file={_property(str(file))}," if file else ""
    print(f"::{level} {where}title={_property(printable(title))}::{_data(lines)}", flush=True)


def _data(text: str) -> str:
    """Escape a command's message: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts"""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _file_of(subject: str, saved: Path | None) -> Path | None:
    """The subject's file where it lies in the current folder, which is the repository's; else that of the failure."""
    place = split_signature(subject)[0].rpartition(":")[0]
    module = Path(place.replace(".", "/"))
    candidates = [Path(place)] if place.endswith(".py") else [module.with_suffix(".py"), module / "__init__.py"]
    return next((path for path in candidates if place and not path.is_absolute() and path.is_file()), saved)


def _summarise(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [columns, ["---"] * len(columns), *([_code(cell) for cell in row] for row in rows)]
    drawn = "\n".join(f"| {' | '.join(row)} |" for row in table) if len(table) > 2 else ""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    try:
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"### {title}\n\n{drawn}\n\n")
    except OSError as error:
        print(f"flashattest: The step's summary cannot be written: {error.strerror or error}.", file=sys.stderr)


def _mark(is_good: bool) -> str:
    return "✅" if is_good else "❌"


def _code(text: str) -> str:
    """Text that Markdown shows as it is, in a cell of a table too."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`" if text else ""
