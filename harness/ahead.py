"""The case that is about to run, written down before it does: what kills a whole campaign is known afterwards."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from harness.examine import Examined, Examiner, Question
from strategies import AttentionCase

FOLDER = Path(".flashattest/running")


class Ahead:
    """An examiner that writes each case down before another one runs it, and forgets it at a good end."""

    def __init__(self, examiner: Examiner, subject: str, device: str, folder: Path = FOLDER) -> None:
        self._examiner, self._about = examiner, {"subject": subject, "device": device}
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._file = self._path.open("wb", buffering=0)

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
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _note(self, case: AttentionCase) -> None:
        # A full disk must not end a campaign: then there is just nothing to remember.
        with suppress(OSError):
            os.pwrite(self._file.fileno(), json.dumps({**self._about, "case": case.to_json()}).encode() + b"\n", 0)


def left_behind(subject: str, device: str, folder: Path = FOLDER) -> list[AttentionCase]:
    """The cases that were running when campaigns on a subject were killed, each told once."""
    cases = []
    for path in sorted(folder.glob("*.json")):
        if _is_running(path):
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            # What an earlier, longer note has left behind the line is of no interest.
            said = json.loads(path.read_bytes().split(b"\n")[0])
            if (said["subject"], said["device"]) != (subject, device):
                continue
            cases.append(AttentionCase.from_json(said["case"]))
        with suppress(OSError):
            path.unlink()
    return cases


def _is_running(path: Path) -> bool:
    """Whether the process that wrote a note lives."""
    pid = path.name.partition("-")[0]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
