"""Replays a saved failure: FIXED, FAILED (KNOWN where it is so marked), or ERROR where it cannot be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from harness.corpus import entries
from harness.corpus.bug_report import bug_report
from harness.corpus.entries import Entry
from harness.errors import CannotRun, Refused, first_line
from harness.judging.examine import Examiner, Question
from harness.judging.relations import RELATIONS
from harness.judging.story import printable
from harness.judging.verdict import Verdict
from harness.running.devices import choose, prepare
from harness.subject.declaration import Subject
from harness.subject.loading import load as load_subject
from harness.subject.loading import locate
from harness.workers import Apart, Here
from strategies import build, checksum

Status = Literal["FIXED", "FAILED", "KNOWN", "ERROR"]

UNSTEADY = "not_repeatable"
OF_HISTORY = "history_dependent"
"""The state that earlier calls leave may last: then the case fails without them too, with another kind."""

RUNS_OF_UNSTEADY = 20
"""Runs of a failure that does not repeat itself before it counts as fixed."""


@dataclass(frozen=True)
class Replayed:
    """The result of a replay.

    FIXED: no check failed. FAILED: some did, with these verdicts, of whatever kind. KNOWN: it failed as before, and is
    marked as known. ERROR: the file, its subject or its case cannot be used here, for the reason in `sentence`.
    device: on which it ran. elsewhere: it needs another device than this one.
    """

    status: Status
    sentence: str
    path: Path | None = None
    entry: Entry | None = None
    verdicts: tuple[Verdict, ...] = ()
    elsewhere: bool = False
    device: str | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it is FIXED on the device where it was found: only then may it be removed."""
        return self.status == "FIXED" and self.entry is not None and self.device == self.entry.device

    @property
    def is_known(self) -> bool:
        """Whether it is marked as known."""
        return self.entry is not None and self.entry.mark is not None and self.entry.mark.status == "known"

    def line(self) -> str:
        """The outcome in one line."""
        name = f"{self.entry.subject} {self.entry.id}  " if self.entry else ""
        return printable(f"{self.status:6} {name}{self.sentence}")

    def story(self) -> str:
        """The bug report: with the failures of now or, where it passes, with the saved one."""
        if self.entry is None:
            return self.sentence
        as_it_was = "" if self.verdicts else f"As it was saved, on {self.entry.device}:\n"
        return as_it_was + bug_report(self.entry, self.path, self.verdicts)


class _Elsewhere(CannotRun):
    """The subject does not run on this device."""


def replay(saved: Path | str | Entry, subject_name: str | None = None, device: str | None = None) -> Replayed:
    """Run a saved failure again, on its own subject or on the one named; device None: cuda if there is one."""
    path = None if isinstance(saved, Entry) else Path(saved)
    entry = saved if isinstance(saved, Entry) else None
    try:
        entry = entry or entries.load(Path(saved))  # type: ignore[arg-type]
        device = choose(device)
        prepare(device)
        subject = _find(subject_name or entry.subject, path, device)
        _require_same_tensors(entry)
        verdicts = _run(entry, subject, device)
    except Refused as refusal:
        return Replayed("ERROR", f"The subject refuses the case now: {refusal}.", path, entry)
    except CannotRun as error:
        return Replayed("ERROR", str(error), path, entry, elsewhere=isinstance(error, _Elsewhere))
    except Exception as error:
        # An entry that breaks the harness must not stop the replay of the others.
        return Replayed("ERROR", f"The replay broke with {first_line(error)}", path, entry)
    status: Status = _status(entry, verdicts)
    return Replayed(status, _sentence(entry, verdicts, device), path, entry, verdicts, device=device)


def _find(name: str, path: Path | None, device: str) -> Subject:
    subject = load_subject(locate(name, path))
    if device not in subject.devices:
        raise _Elsewhere(f"{name} runs on {' and '.join(subject.devices)}, not on {device}.")
    return subject


def _require_same_tensors(entry: Entry) -> None:
    if checksum(build(entry.case)) != entry.checksum:
        raise CannotRun("The case makes other tensors here than where it was saved, so its failure cannot be repeated.")


def _run(entry: Entry, subject: Subject, device: str) -> tuple[Verdict, ...]:
    """Return the verdicts of the first run that fails, of all checks and relations, with the oracles' votes.

    A failure that does not repeat itself is run several times, with its own check alone: its rate is a share of calls.
    """
    is_unsteady = entry.kind == UNSTEADY
    also = frozenset([entry.check] if is_unsteady else RELATIONS)
    examiner = _examiner(subject, device)
    try:
        for _ in range(RUNS_OF_UNSTEADY if is_unsteady else 1):
            examined = examiner.examine(Question(entry.case, also, others=False, votes=True))
            if examined.refused is not None:
                raise Refused(examined.refused)
            if examined.verdicts:
                return examined.verdicts
    finally:
        examiner.close()
    return ()


def _examiner(subject: Subject, device: str) -> Examiner:
    """A worker, so that an entry that ends its process costs itself alone; this process if CUDA is initialised."""
    if device == "cuda" and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return Here(subject, device)
    return Apart(lambda: subject, device)


def _status(entry: Entry, verdicts: tuple[Verdict, ...]) -> Status:
    """KNOWN is the failure as it was saved: a failure of another kind is not known."""
    if not verdicts:
        return "FIXED"
    is_known = entry.mark is not None and entry.mark.status == "known"
    return "KNOWN" if is_known and _find_same(entry, verdicts) is not None else "FAILED"


def _sentence(entry: Entry, verdicts: tuple[Verdict, ...], device: str) -> str:
    marked = f" It is marked {entry.mark}." if entry.mark else ""
    if not verdicts:
        place = device if device == entry.device else f"{device} (it was found on {entry.device})"
        return f"{entry.kind} is no longer seen on {place}.{marked}"
    again = _find_same(entry, verdicts)
    if again is not None:
        return f"{entry.kind} as before: {again.sentence}{marked}"
    return f"It was {entry.kind} and is now {verdicts[0].kind}: {verdicts[0].sentence}{marked}"


def _find_same(entry: Entry, verdicts: tuple[Verdict, ...]) -> Verdict | None:
    """The verdict that repeats the saved one, if there is one."""
    return next((verdict for verdict in verdicts if _is_same(entry, verdict)), None)


def _is_same(entry: Entry, verdict: Verdict) -> bool:
    return verdict.check == entry.check and (verdict.kind == entry.kind or entry.kind in (UNSTEADY, OF_HISTORY))
