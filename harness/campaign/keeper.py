"""What a campaign finds, kept in the corpus from the moment it is met: nothing is lost when the campaign is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.campaign.campaign import Fault, Finding
from harness.corpus import entries
from harness.errors import CannotRun
from harness.judging.verdict import Verdict
from strategies import AttentionCase


class Corpus:
    """Keeps a subject's failures in a folder. problems: why one could not be saved."""

    def __init__(self, folder: Path, subject: str, device: str, problems: list[str] | None = None) -> None:
        self._folder, self._subject, self._device = folder, subject, device
        self._as_met: dict[Fault, Path] = {}
        self.problems = [] if problems is None else problems

    def of_one_part(self) -> Corpus:
        """The same folder for one of several campaigns whose failures are told here."""
        return Corpus(self._folder, self._subject, self._device, self.problems)

    def met(self, fault: Fault, case: AttentionCase, verdict: Verdict) -> None:
        """Save the case as it was drawn, until it is shrunk; what was in the corpus before stays there."""
        with self._problems_noted():
            entry = entries.entry(case, verdict, self._subject, self._device)
            # Not Path.exists, which raises where a folder cannot be entered.
            was_there = os.path.exists(entries.place(entry, self._folder))
            path = entries.save(entry, self._folder)
            if not was_there:
                self._as_met[fault] = path

    def settled(self, fault: Fault, finding: Finding | None) -> None:
        """Save the shrunk case in the place of the drawn one, unless another finding tells of it."""
        drawn, path = self._as_met.pop(fault, None), None
        if finding is not None:
            path = self._save_finding(finding)
            if path is None:
                return
        if drawn is not None and drawn != path:
            with suppress(OSError):
                drawn.unlink()

    def located(self, findings: Mapping[Fault, Finding]) -> dict[Fault, Path]:
        """The file of each finding, whichever process saved it, and saved now where none could."""
        self.problems.clear()  # those of cases that were shrunk since, too
        places = {fault: self._save_finding(finding) for fault, finding in findings.items()}
        return {fault: path for fault, path in places.items() if path is not None}

    def _save_finding(self, finding: Finding) -> Path | None:
        with self._problems_noted():
            return entries.save(entries.entry_of(finding, self._subject, self._device), self._folder)
        return None

    @contextmanager
    def _problems_noted(self) -> Iterator[None]:
        """Go on where something cannot be saved, and say so once."""
        try:
            yield
        except CannotRun as problem:
            if str(problem) not in self.problems:
                self.problems.append(str(problem))
