"""A journal of the case that runs: the next campaign knows which case killed this one."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from harness.judging.examine import Examined, Examiner, Question
from strategies import AttentionCase

NOTES_FOLDER = Path(".flashattest/running")


class Journaled:
    """An examiner that notes each case on disk before another one runs it, and removes the note when it is closed.

    Where nothing can be written, as on a full disk, cases run without notes.
    """

    def __init__(self, examiner: Examiner, subject: str, device: str, folder: Path = NOTES_FOLDER) -> None:
        self._examiner, self._about = examiner, {"subject": subject, "device": device}
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._file: FileIO | None = None
        with suppress(OSError):
            self._file = _locked(self._path)

    def examine(self, question: Question) -> Examined:
        """Note the case, then run it."""
        self._note(question.case)
        return self._examiner.examine(question)

    def examine_fresh(self, question: Question) -> Examined | None:
        """Do the same in a new process."""
        self._note(question.case)
        return self._examiner.examine_fresh(question)

    def close(self) -> None:
        """Close the examiner and remove the note: all cases have been run."""
        self._examiner.close()
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink()
            self._file.close()

    def _note(self, case: AttentionCase) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file.fileno(), json.dumps({**self._about, "case": case.to_json()}).encode() + b"\n", 0)


def _locked(path: Path) -> FileIO:
    """Create a file that is locked before it gets its name, and stays locked while its writer lives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(".new")
    file = FileIO(begun, "x+")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    begun.rename(path)
    return file


def take_left_behind(subject: str, device: str, folder: Path = NOTES_FOLDER) -> Iterator[AttentionCase]:
    """Yield the cases that were running when campaigns on a subject were killed.

    Each note is consumed by the first reader, when it takes the case.
    """
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError), FileIO(path, "r+") as file:
            # Fails with an OSError while the writer lives. (Its process id proves nothing: ids are used again.)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            case = _take(path, file, {"subject": subject, "device": device})
            if case is not None:
                yield case


def _take(path: Path, file: FileIO, about: dict[str, str]) -> AttentionCase | None:
    """Remove a note of this subject and return its case; None where it is another's, torn, or was taken meanwhile."""
    if os.fstat(file.fileno()).st_nlink == 0:
        return None
    case = None
    with suppress(ValueError, KeyError, TypeError):
        # Behind the first line may be the end of an earlier, longer note.
        note = json.loads(file.readline())
        if {"subject": note["subject"], "device": note["device"]} != about:
            return None
        case = AttentionCase.from_json(note["case"])
    path.unlink()
    return case
