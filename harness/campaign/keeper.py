"""Saves what a campaign finds in the corpus from the moment it is met: a campaign that is killed loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from harness.campaign.finding import FaultKey, Finding
from harness.corpus import entries
from harness.corpus.entries import Worst, make_entry
from harness.errors import CannotRun
from harness.judging.verdict import Verdict
from strategies import AttentionCase


class CorpusKeeper:
    """Saves a subject's failures in a folder. problems: why some could not be saved."""

    def __init__(self, folder: Path, subject: str, device: str) -> None:
        self._folder, self._subject, self._device = folder, subject, device
        self._drawn: dict[FaultKey, Path] = {}
        self._written: set[Path] = set()
        self.problems: list[str] = []

    def for_another_part(self) -> CorpusKeeper:
        """Return a keeper of the same folder for another campaign on the same subject."""
        return CorpusKeeper(self._folder, self._subject, self._device)

    def save_met(self, fault: FaultKey, case: AttentionCase, verdict: Verdict) -> None:
        """Save the case as it was drawn, until it is shrunk. A file that is in the corpus already stays there."""
        with self._noting_problems():
            entry = make_entry(case, verdict, self._subject, self._device)
            # Not Path.exists, which raises where a folder cannot be entered.
            was_there = os.path.exists(entries.path_of(entry, self._folder))
            path = entries.save(entry, self._folder)
            if not was_there:
                self._drawn[fault] = path

    def save_settled(self, fault: FaultKey, finding: Finding | None) -> Path | None:
        """Save the shrunk case in place of the drawn one and return its file; None where nothing is saved.

        Where it cannot be saved, the drawn case stays. finding: None where another finding reports the fault.
        """
        drawn, path = self._drawn.pop(fault, None), None
        if finding is not None:
            path = self._save(finding)
            if path is None:
                return None
        if drawn is not None and drawn != path:
            with suppress(OSError):
                drawn.unlink()
        return path

    def forget(self, finding: Finding) -> None:
        """Remove the file of a finding that another one replaces; a file that was there before stays."""
        if finding.file is not None and finding.file in self._written:
            with suppress(OSError):
                finding.file.unlink()

    def save_missing(self, findings: dict[FaultKey, Finding]) -> None:
        """Save each finding that has no file: its job was killed before it could save it, or the disk was full.

        A file may be gone, too, where another job had saved it as a drawn case. `problems` then speaks of these
        findings alone.
        """
        self.problems.clear()
        for fault, finding in findings.items():
            if finding.file is None or not os.path.exists(finding.file):
                findings[fault] = replace(finding, file=self._save(finding))

    def _save(self, finding: Finding) -> Path | None:
        with self._noting_problems():
            worst = Worst(finding.worst_ratio, finding.worst)
            entry = make_entry(finding.shrunk, finding.verdict, self._subject, self._device, worst)
            path = entries.path_of(entry, self._folder)
            was_there = os.path.exists(path) and path not in self._drawn.values()
            saved = entries.save(entry, self._folder)
            self._written |= set() if was_there else {saved}
            return saved
        return None

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        """Go on where something cannot be saved, and note each problem once."""
        try:
            yield
        except CannotRun as problem:
            if str(problem) not in self.problems:
                self.problems.append(str(problem))
