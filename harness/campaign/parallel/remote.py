"""A part of a campaign in a process of its own on any machine: its order comes, and its words go, over a connection."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from harness.campaign.campaign import Campaign, shared_database
from harness.campaign.parallel.forks import Wire
from harness.campaign.parallel.jobs import Part, State, Word, work
from harness.campaign.setting import Setting
from harness.errors import CannotRun
from harness.running.devices import choose, prepare
from harness.subject.declaration import Subject

EXAMPLES = Path("examples")
MOST_BYTES = 1 << 20
"""Of a subject's files, and of examples, that travel."""

Files = Mapping[str, bytes]
"""Contents of files by their paths within a folder."""


@dataclass(frozen=True)
class Order:
    """What a part needs to know. part: None asks for the subject's card alone. files: the subject's, of the folder."""

    setting: Setting
    part: Part | None
    files: Files
    examples: Files


@dataclass(frozen=True)
class Said:
    """A word, how long ago its campaign began, and the examples that its database holds where they have changed.

    card: what the subject says of itself, where that was asked.
    """

    word: Word | None = None
    seconds: float = 0.0
    examples: Files | None = None
    card: Subject | None = None

    def here(self) -> Word | None:
        """The word with times of this machine's clock."""
        if self.word is None or not isinstance(self.word[1], State):
            return self.word
        said, state = self.word
        return said, replace(state, tally=replace(state.tally, started=time.monotonic() - self.seconds))


def launch(order: Order, folder: Path) -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    """Start a process for an order in a folder of its own; it ends when the connection is closed."""
    ours, theirs = Pipe()
    path = {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    process = subprocess.Popen(
        [sys.executable, "-c", f"from harness.campaign.parallel.remote import main; main({theirs.fileno()})"],
        pass_fds=[theirs.fileno()],
        cwd=folder,
        env=os.environ | path,
    )
    theirs.close()
    ours.send(order)
    return process, ours


def files_of(place: str) -> dict[str, bytes]:
    """The file of a subject that is named by one, and the Python files beside it where they are small enough."""
    path = Path(place.rpartition(":")[0])
    if path.suffix != ".py" or not path.is_file():
        return {}
    beside = {other.name: other.read_bytes() for other in sorted(path.absolute().parent.glob("*.py"))}
    # A folder of many scripts is no package of the subject's.
    return beside if sum(map(len, beside.values())) <= MOST_BYTES else {path.name: path.read_bytes()}


def packed(folder: Path) -> dict[str, bytes]:
    """The examples in a folder, small ones first, as many as may travel."""
    found: dict[str, bytes] = {}
    with suppress(OSError):
        for path in sorted(folder.glob("*/*"), key=lambda path: path.stat().st_size):
            content = path.read_bytes()
            if len(content) + sum(map(len, found.values())) > MOST_BYTES:
                break
            found[f"{path.parent.name}/{path.name}"] = content
    return found


def unpack(examples: Files, folder: Path) -> None:
    """Write examples that are not there yet, each in one piece; on a full disk none."""
    for name, content in examples.items():
        path = folder / name
        if re.fullmatch("[0-9a-f]+/[0-9a-f]+", name) is None or path.exists():
            continue
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = folder / f"{path.name}.{os.getpid()}.new"
            begun.write_bytes(content)
            begun.rename(path)


class _Line:
    """Adds to each word what only this machine knows."""

    def __init__(self, wire: Wire, examples: Files) -> None:
        self._wire, self._known = wire, dict(examples)

    def say(self, word: Word) -> None:
        examples = packed(EXAMPLES)
        has_changed, self._known = examples != self._known, examples
        seconds = word[1].tally.seconds if isinstance(word[1], State) else 0.0
        self._wire.send(Said(word, seconds, examples if has_changed else None))

    def is_stopped(self) -> bool:
        return self._wire.is_stopped()


def main(handle: int) -> NoReturn:
    """Carry out the order that comes over a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection: Connection[Any, Any] = Connection(handle)
        order: Order = connection.recv()
        _carry_out(order, Wire(connection))
    finally:
        os._exit(0)


def _carry_out(order: Order, wire: Wire) -> None:
    setting = order.setting

    def start(part: Part) -> Campaign:
        _prepare(order)
        apart = setting.apart(setting.maker())
        limits = (part.seed, part.seconds, part.cases)
        database = shared_database(EXAMPLES)
        return Campaign(apart.subject, setting.device, *limits, database, examiner=apart, probes=True)

    def card() -> Subject:
        _prepare(order)
        return setting.card(setting.maker())

    if order.part is not None:
        work(order.part, start, _Line(wire, order.examples))
        return
    try:
        wire.send(Said(card=card()))
    except CannotRun as problem:
        wire.send(Said(("cannot", str(problem))))


def _prepare(order: Order) -> None:
    """Wake the device, and put what came with the order where it is looked for."""
    torch.set_num_threads(1)
    prepare(choose(order.setting.device))
    for name, content in order.files.items():
        Path(Path(name).name).write_bytes(content)
    unpack(order.examples, EXAMPLES)
