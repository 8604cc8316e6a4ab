"""Read saved failures and run them again: the corpus keeps what failed, but not where in a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from harness.corpus.entries import CorruptEntry, Entry, load
from harness.report.again import Asked, Picture, pictures
from harness.report.model import ReportedFailure, Source


def of_entries(name: str, paths: Iterable[Path], strictly: bool = False) -> Source:
    """Read saved failures. A file that is not one becomes a sentence, or raises CorruptEntry if `strictly`."""
    entries: dict[Path, Entry] = {}
    unread = []
    for path in paths:
        try:
            entries[path] = load(path)
        except CorruptEntry as error:
            if strictly:
                raise
            unread.append(str(error))
    return Source(name, _drawn(entries), None, tuple(unread))


def _drawn(entries: Mapping[Path, Entry]) -> tuple[ReportedFailure, ...]:
    """The entries with their pictures. The smallest case comes first: where it passes, no other is run."""
    asked = {path: _asked(path, entry) for path, entry in entries.items()}
    smallest = dict(zip(asked, pictures(list(asked.values())), strict=True))
    others = {
        (path, name): question
        for path in asked
        if smallest[path].map is not None
        for name, question in _others(asked[path], entries[path]).items()
    }
    drawn = dict(zip(others, pictures(list(others.values())), strict=True))
    return tuple(
        _shown(path, entry, {"smallest": smallest[path], **{n: each for (p, n), each in drawn.items() if p == path}})
        for path, entry in entries.items()
    )


def _asked(path: Path, entry: Entry) -> Asked:
    return Asked(entry.subject, entry.device, entry.case, entry.kind, entry.check, None, path, entry.checksum)


def _others(smallest: Asked, entry: Entry) -> dict[str, Asked]:
    worst = {"worst": replace(smallest, case=entry.worst.case, checksum=None)} if entry.worst else {}
    return worst | {"larger": replace(smallest, made_larger=True)}


def _shown(path: Path, entry: Entry, drawn: Mapping[str, Picture]) -> ReportedFailure:
    return ReportedFailure(
        entry.subject,
        entry.device,
        entry.case,
        entry.verdict,
        entry.worst,
        drawn,
        str(path),
        versions=entry.versions,
        fails=drawn["smallest"].fails,
    )
