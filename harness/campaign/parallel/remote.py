"""A part of a campaign in a process of its own on any machine; its order and its messages go over a connection."""

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
from harness.campaign.parallel.forks import PipeChannel
from harness.campaign.parallel.jobs import Part, PartMessage, State, run_part
from harness.campaign.setting import Setting
from harness.errors import CannotRun
from harness.running.devices import choose, prepare
from harness.subject.declaration import Subject
from harness.subject.pretend import ask_for
from harness.subject.signature import split_signature

EXAMPLES = Path("examples")
MOST_BYTES = 1 << 20
"""Of a subject's files, and of examples, that are sent."""

Files = Mapping[str, bytes]
"""Contents of files by their paths within a folder."""


@dataclass(frozen=True)
class Order:
    """What a part needs to know. part: None asks for the subject's card alone. files: the subject's, of its folder."""

    setting: Setting
    part: Part | None
    files: Files
    examples: Files


@dataclass(frozen=True)
class Envelope:
    """A message with what only the sending machine knows.

    seconds: how long ago the campaign began. examples: those of its database, where they have changed. card: what the
    subject declares, where that was asked.
    """

    message: PartMessage | None = None
    seconds: float = 0.0
    examples: Files | None = None
    card: Subject | None = None

    def open(self) -> PartMessage | None:
        """Return the message with times of this machine's clock."""
        if self.message is None or not isinstance(self.message[1], State):
            return self.message
        kind, state = self.message
        return kind, replace(state, tally=replace(state.tally, started=time.monotonic() - self.seconds))


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
    """Return the file of a subject that is named by one, and the other Python files of its folder if small enough."""
    path = Path(split_signature(place)[0].rpartition(":")[0])
    if path.suffix != ".py" or not path.is_file():
        return {}
    files = {other.name: other.read_bytes() for other in sorted(path.absolute().parent.glob("*.py"))}
    # A folder of many scripts is not the subject's package.
    return files if sum(map(len, files.values())) <= MOST_BYTES else {path.name: path.read_bytes()}


def pack(folder: Path) -> dict[str, bytes]:
    """Return the examples in a folder, the smallest first, up to MOST_BYTES."""
    found: dict[str, bytes] = {}
    with suppress(OSError):
        for path in sorted(folder.glob("*/*"), key=lambda path: path.stat().st_size):
            content = path.read_bytes()
            if len(content) + sum(map(len, found.values())) > MOST_BYTES:
                break
            found[f"{path.parent.name}/{path.name}"] = content
    return found


def unpack(examples: Files, folder: Path) -> None:
    """Write the examples that are not there yet, each in one piece; on a full disk none."""
    for name, content in examples.items():
        path = folder / name
        if re.fullmatch("[0-9a-f]+/[0-9a-f]+", name) is None or path.exists():
            continue
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = folder / f"{path.name}.{os.getpid()}.new"
            begun.write_bytes(content)
            begun.rename(path)


class _EnvelopeChannel:
    """Puts each message into an envelope."""

    def __init__(self, channel: PipeChannel, examples: Files) -> None:
        self._channel, self._known = channel, dict(examples)

    def send(self, message: PartMessage) -> None:
        examples = pack(EXAMPLES)
        has_changed, self._known = examples != self._known, examples
        seconds = message[1].tally.seconds if isinstance(message[1], State) else 0.0
        self._channel.send(Envelope(message, seconds, examples if has_changed else None))

    def is_stopped(self) -> bool:
        return self._channel.is_stopped()


def main(handle: int) -> NoReturn:
    """Carry out the order that comes over a connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection: Connection[Any, Any] = Connection(handle)
        order: Order = connection.recv()
        _carry_out(order, PipeChannel(connection))
    finally:
        os._exit(0)


def _carry_out(order: Order, channel: PipeChannel) -> None:
    setting = order.setting

    def make(part: Part) -> Campaign:
        _prepare(order)
        apart = setting.apart(setting.maker())
        limits = (part.seed, part.seconds, part.cases)
        database = shared_database(EXAMPLES)
        return Campaign(
            apart.subject, setting.device, *limits, database, examiner=apart, probes=True, opens=part.number == 0
        )

    def card() -> Subject:
        _prepare(order)
        return setting.card(setting.maker())

    if order.part is not None:
        run_part(order.part, make, _EnvelopeChannel(channel, order.examples))
        return
    try:
        channel.send(Envelope(card=card()))
    except CannotRun as problem:
        channel.send(Envelope(("cannot", str(problem))))


def _prepare(order: Order) -> None:
    """Initialise the device, and write the files of the order to the current folder."""
    torch.set_num_threads(1)
    ask_for(order.setting.pretends)
    prepare(choose(order.setting.device))
    for name, content in order.files.items():
        Path(Path(name).name).write_bytes(content)
    unpack(order.examples, EXAMPLES)
