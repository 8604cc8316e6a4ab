"""Failures run once more to see where they stand, in a process of its own: a crash or a hang there ends no report."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.attempt import Attempt, attempt
from harness.devices import choose, prepare
from harness.judge import judge
from harness.replay import RUNS_OF_UNSTEADY, UNSTEADY, located
from harness.report.heat import HeatMap, heat_map
from harness.report.larger import larger
from harness.run import Refused
from harness.subject import Subject, load
from harness.verdict import CannotRun, Verdict
from strategies import AttentionCase, build, checksum

SECONDS = 60.0
"""How long one failure may take."""

MOST_LOST = 3
"""So many processes may be lost before the rest is left alone."""

NOTHING_TO_DRAW = "It is not about numbers, so there is nothing to draw."

Failed = tuple[Attempt, Verdict]


@dataclass(frozen=True)
class Question:
    """A failure that is to be run again: subject by name, device where it was found, and the check that saw it.

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
    """What came of it: the map and the case that it shows, or the sentence that says why there is none.

    fails: whether it failed; None where it could not be run.
    """

    map: HeatMap | None = None
    case: AttentionCase | None = None
    sentence: str = ""
    fails: bool | None = None


def pictures(questions: Sequence[Question]) -> list[Picture]:
    """Run each failure again, one after the other; one that ends its process leaves the others alone."""
    told: list[Picture] = []
    worker, lost = None, 0
    for question in questions:
        if lost >= MOST_LOST:
            told.append(Picture(sentence="It was not run again, since others ended the process."))
            continue
        worker = worker or _Worker()
        answer = worker.ask(question)
        if answer is None:
            worker, lost = None, lost + 1
        told.append(answer or Picture(sentence=f"Run again, it ended the process or took more than {SECONDS:.0f} s."))
    if worker is not None:
        worker.close()
    return told


class _Worker:
    """A new process (no fork: CUDA does not outlive one) that answers questions until it is closed."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: Question) -> Picture | None:
        """The answer, or None where the process ended or took too long; it is closed then."""
        with suppress(OSError, EOFError):
            self._connection.send(question)
            if self._connection.poll(SECONDS):
                answer: Picture = self._connection.recv()
                return answer
        self.close()
        return None

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _serve(connection: Connection[Any, Any]) -> None:
    """Answer until the other end is closed; what subjects print is nobody's business here."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            connection.send(look_again(connection.recv()))


def look_again(question: Question) -> Picture:
    """Run a failure again, here and now."""
    try:
        device = _device(question.device)
        prepare(device)
        return _drawn(_again(question, load(located(question.subject, question.file), question.refuses), device))
    except Refused as refusal:
        return Picture(sentence=f"The subject refuses the case now: {refusal}.")
    except CannotRun as error:
        return Picture(sentence=f"It cannot be run here. {error}")
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return Picture(sentence=f"It cannot be run here: {type(error).__name__}: {first_line}")


def _device(found_on: str) -> str:
    """Where it was found or, on a machine that has no such device, the one there is."""
    try:
        return choose(found_on)
    except CannotRun:
        return choose()


def _again(question: Question, subject: Subject, device: str) -> Failed | None:
    """The first run that the same check finds wrong; of a failure that comes and goes there are several."""
    if device not in subject.devices:
        raise CannotRun(f"{subject.name} runs on {' and '.join(subject.devices)}, not on {device}.")
    if question.checksum not in (None, checksum(build(question.case))):
        raise CannotRun("The case makes other tensors here than where it was saved.")
    if not question.made_larger:
        return _failing(question, subject, question.case, device)
    found = (_unless_refused(question, subject, case, device) for case in larger(question.case, subject))
    return next((failed for failed in found if failed is not None), None)


def _unless_refused(question: Question, subject: Subject, case: AttentionCase, device: str) -> Failed | None:
    try:
        return _failing(question, subject, case, device)
    except Refused:
        return None


def _failing(question: Question, subject: Subject, case: AttentionCase, device: str) -> Failed | None:
    for _ in range(RUNS_OF_UNSTEADY if question.kind == UNSTEADY else 1):
        tried = attempt(subject, case, device)
        if found := _same_check(judge(tried, also=[question.check], others=False), question.check):
            return tried, found
    return None


def _same_check(verdicts: Iterable[Verdict], check: str) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.check == check), None)


def _drawn(failed: Failed | None) -> Picture:
    if failed is None:
        return Picture(sentence="Run again, it did not fail.", fails=False)
    drawn = heat_map(*failed)
    return Picture(drawn, failed[0].case, "" if drawn else NOTHING_TO_DRAW, fails=True)
