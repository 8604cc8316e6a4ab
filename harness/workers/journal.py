"""The case that is about to run, written down before it does: what kills a whole campaign is known afterwards."""

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

FOLDER = Path(".flashattest/running")


class Ahead:
    """An examiner that writes each case down before another one runs it, and forgets it at a good end.

    Where nothing can be written, as on a full disk, there is just nothing to remember.
    """

    def __init__(self, examiner: Examiner, subject: str, device: str, folder: Path = FOLDER) -> None:
        self._examiner, self._about = examiner, {"subject": subject, "device": device}
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._file: FileIO | None = None
        with suppress(OSError):
            self._file = _locked(self._path)

    def examine(self, question: Question) -> Examined:
        """Write the case down, then run it."""
        self._note(question.case)
        return self._examiner.examine(question)

    def afresh(self, question: Question) -> Examined | None:
        """The same in a process of its own."""
        self._note(question.case)
        return self._examiner.afresh(question)

    def close(self) -> None:
        """All cases have been run: there is none to remember."""
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
    """A new file that stays locked while its writer lives, and has its name only from then on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.with_suffix(".new")
    file = FileIO(begun, "x+")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    begun.rename(path)
    return file


def left_behind(subject: str, device: str, folder: Path = FOLDER) -> Iterator[AttentionCase]:
    """The cases that were running when campaigns on a subject were killed.

    Each is told once, to whoever asks first, and its note is kept until then.
    """
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError), FileIO(path, "r+") as file:
            # Refused, with an OSError, while the writer lives. (Its number proves nothing: numbers come again.)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            case = _taken(path, file, {"subject": subject, "device": device})
            if case is not None:
                yield case


def _taken(path: Path, file: FileIO, about: dict[str, str]) -> AttentionCase | None:
    """The case that a note of ours tells, and the note removed; None where it is another's, or was taken meanwhile."""
    if os.fstat(file.fileno()).st_nlink == 0:
        return None
    case = None
    with suppress(ValueError, KeyError, TypeError):
        # What an earlier, longer note has left behind the line is of no interest.
        said = json.loads(file.readline())
        if {"subject": said["subject"], "device": said["device"]} != about:
            return None
        case = AttentionCase.from_json(said["case"])
    path.unlink()
    return case
