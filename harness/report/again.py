"""Failures run again in workers, for pictures of where they are: a crash or a hang there ends no report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from harness.corpus.replay import RUNS_OF_UNSTEADY, UNSTEADY
from harness.errors import CannotRun, Refused, first_line
from harness.judging.examine import Examined, Question
from harness.judging.heat import HeatMap
from harness.report.larger import larger
from harness.running.devices import choose, prepare
from harness.subject.loading import load, locate
from harness.workers import Apart
from strategies import AttentionCase, build, checksum

NOTHING_TO_DRAW = "It is not about numbers, so there is nothing to draw."


@dataclass(frozen=True)
class Asked:
    """A failure to run again: its subject by name, the device where it was found, and the check that found it.

    file: where it is saved, since a subject's own file may be named relative to that. checksum: of the tensors.
    made_larger: show the case made larger (`harness.report.larger`), not as it is.
    """

    subject: str
    device: str
    case: AttentionCase
    kind: str
    check: str
    refuses: str | None = None
    file: Path | None = None
    checksum: str | None = None
    made_larger: bool = False


@dataclass(frozen=True)
class Picture:
    """The result: a map and the case that it shows, or a sentence that says why there is none.

    fails: whether it failed; None if it could not be run.
    """

    map: HeatMap | None = None
    case: AttentionCase | None = None
    sentence: str = ""
    fails: bool | None = None


def pictures(asked: Sequence[Asked]) -> list[Picture]:
    """Run each failure again, one after the other."""
    with closing(_Workers()) as workers:
        return [_picture(each, workers) for each in asked]


class _Workers:
    """A worker for one subject at a time: it is kept until a failure of another subject is run."""

    def __init__(self) -> None:
        self._subject: tuple[str, str | None, str] | None = None
        self._apart: Apart | None = None

    def of(self, asked: Asked) -> Apart:
        """A worker for the subject, on the device where it failed or, if that is missing, on this machine's own."""
        device = _device(asked.device)
        subject = (locate(asked.subject, asked.file), asked.refuses, device)
        if self._apart is None or self._subject != subject:
            self.close()
            prepare(device)
            self._apart, self._subject = Apart(lambda: load(*subject[:2]), device), subject
        if device not in self._apart.subject.devices:
            devices = " and ".join(self._apart.subject.devices)
            raise CannotRun(f"{asked.subject} runs on {devices}, not on {device}.")
        return self._apart

    def close(self) -> None:
        """End the processes."""
        if self._apart is not None:
            self._apart.close()
        self._apart = None


def _device(found_on: str) -> str:
    try:
        return choose(found_on)
    except CannotRun:
        return choose()


def _picture(asked: Asked, workers: _Workers) -> Picture:
    try:
        if asked.checksum not in (None, checksum(build(asked.case))):
            raise CannotRun("The case makes other tensors here than where it was saved.")
        apart = workers.of(asked)
        return _larger(asked, apart) if asked.made_larger else _as_it_is(asked, asked.case, apart)
    except Refused as refusal:
        return Picture(sentence=f"The subject refuses the case now: {refusal}.")
    except CannotRun as error:
        return Picture(sentence=f"It cannot be run here. {error}")
    except Exception as error:
        # One failure that breaks the harness must not keep the others from the page.
        return Picture(sentence=f"It cannot be run here: {first_line(error)}")


def _larger(asked: Asked, apart: Apart) -> Picture:
    """The first of the larger cases that fails in the same way."""
    for case in larger(asked.case, apart.subject):
        try:
            picture = _as_it_is(asked, case, apart)
        except Refused:
            continue
        if picture.map is not None:
            return picture
    return Picture(sentence="No larger case failed.")


def _as_it_is(asked: Asked, case: AttentionCase, apart: Apart) -> Picture:
    question = Question(case, frozenset({asked.check}), others=False, maps=True)
    for _ in range(RUNS_OF_UNSTEADY if asked.kind == UNSTEADY else 1):
        examined = _examined(question, asked, apart)
        if examined.refused is not None:
            raise Refused(examined.refused)
        if any(verdict.check == asked.check for verdict in examined.verdicts):
            return _drawn(asked, case, examined)
    if examined.verdicts:
        return Picture(sentence=f"Run again, it failed otherwise: {examined.verdicts[0].sentence}", fails=True)
    return Picture(sentence="Run again, it did not fail.", fails=False)


def _examined(question: Question, asked: Asked, apart: Apart) -> Examined:
    """Run it in a new process if that is cheap, as it is on a CPU; unsteady failures need many calls in one process."""
    is_cheap = _device(asked.device) == "cpu" and asked.kind != UNSTEADY
    return (apart.examine_fresh(question) if is_cheap else None) or apart.examine(question)


def _drawn(asked: Asked, case: AttentionCase, examined: Examined) -> Picture:
    found = examined.maps.get(asked.check)
    return Picture(found, case, "" if found else NOTHING_TO_DRAW, fails=True)
