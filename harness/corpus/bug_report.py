"""A saved failure as a bug report: its story, the versions it was found with, and the commands that show it again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.corpus.entries import Entry
from harness.judging.story import printable, story
from harness.judging.verdict import Verdict
from harness.subject.pretend import option


def bug_report(entry: Entry, path: Path | None = None, now: Iterable[Verdict] = ()) -> str:
    """Return the report, one fact per line. now: verdicts of today, in place of the saved one."""
    lines = [story(entry.subject, entry.case, verdict) for verdict in tuple(now) or (entry.verdict,)]
    if entry.worst is not None:
        lines.append(f"  worst    {entry.worst.ratio:.3g} x the budget: {entry.worst.case!r}")
    found_with = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    lines.append(printable(f"  found    on {entry.device} with {found_with}"))
    if entry.mark is not None:
        lines.append(f"  marked   {entry.mark}")
    return "\n".join([*lines, *([commands(path)] if path else [])])


def commands(path: Path) -> str:
    """Return the lines with the file of a failure and the commands that take it."""
    again = f"flashattest replay {path}{option()}"
    return f"  saved    {path}\n  again    {again}\n  script   flashattest corpus script {path}"
