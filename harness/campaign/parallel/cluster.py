"""Parts of a campaign as tasks of a Ray cluster, each in a process of its own; what they find is gathered here.

Ray is an optional extra, imported where a cluster is asked for. A node that dies costs the cases that it was running:
its parts are begun again elsewhere, for the time that is left.
"""

from __future__ import annotations

import pickle
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness.campaign.keeper import Corpus
from harness.campaign.parallel.forks import STOP
from harness.campaign.parallel.jobs import Part, State, Word
from harness.campaign.parallel.remote import Order, Said, files_of, launch, packed, unpack
from harness.campaign.setting import Setting
from harness.errors import CannotRun
from harness.subject.declaration import Subject

SECONDS_TO_CONNECT = 5.0
SECONDS_TO_START = 300.0
"""In which a node must have told what the subject is: the first task of a cluster may wait for a machine to boot."""

SECONDS_BETWEEN_WORDS = 0.5
END = "end"
Say = Callable[[list[bytes]], str | None]
"""Leaves words for the one who asked; returns STOP, END, or None to go on."""


class Cluster:
    """A connection to a Ray cluster that runs already; a context manager, which closes it.

    Raises CannotRun, in a sentence, where Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> Cluster:
        self._ray = _ray()
        _require_reachable(self._address)
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:
            raise CannotRun(f"The Ray cluster at {self._address} cannot be used: {_last_line(error)}") from error
        return self

    def __exit__(self, *raised: object) -> None:
        self._ray.shutdown()

    @property
    def device(self) -> str:
        """What the cluster would run on: its GPUs, where it has any."""
        return "cuda" if self._ray.cluster_resources().get("GPU") else "cpu"

    def slots(self, device: str) -> int:
        """How many parts run at the same time. Raises CannotRun where the cluster has no such device."""
        return self._counted(device, [self._ray.cluster_resources()])

    def slots_of_a_node(self, device: str) -> int:
        """How many of them may share a machine."""
        return self._counted(device, [node["Resources"] for node in self._ray.nodes() if node["Alive"]])

    def _counted(self, device: str, resources: list[dict[str, float]]) -> int:
        kind = _KINDS[device]
        count = max((int(each.get(kind, 0)) for each in resources), default=0)
        if not count:
            raise CannotRun(f"The Ray cluster at {self._address} has no {kind}s; it would need one for each job.")
        return count

    def carrier(self, setting: Setting, kept: Corpus, database: Path) -> OnCluster:
        """What runs parts here. kept, database: where findings and failing examples are gathered."""
        return OnCluster(self._ray, setting, kept, database)


_KINDS = {"cpu": "CPU", "cuda": "GPU"}


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CannotRun(
            "--cluster needs Ray, which is not installed here: pip install 'flashattest[cluster]'."
        ) from error
    return ray


def _require_reachable(address: str) -> None:
    """Ask at the door: Ray itself would knock for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise CannotRun(f"A cluster's address is HOST:PORT or auto, not {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise CannotRun(f"No Ray cluster answers at {address}: {error}.") from error


@dataclass(eq=False)
class Task:
    """A part that runs somewhere, or waits for a node.

    due: when its time is up, by this machine's clock; None: no limit. kept: keeps what it finds.
    """

    key: int
    reference: Any
    due: float | None
    kept: Corpus
    has_spoken: bool = False
    state: State = field(default_factory=State)


class OnCluster:
    """Carries parts to the nodes of a cluster, and keeps here what they find."""

    def __init__(self, ray: Any, setting: Setting, kept: Corpus, database: Path) -> None:
        self._ray, self._kept, self._database = ray, kept, database
        self._files = files_of(setting.name)
        attribute = setting.name.rpartition(":")[2]
        place = f"{Path(setting.name.rpartition(':')[0]).name}:{attribute}" if self._files else None
        self._setting = replace(setting, place=place)
        self._tasks: list[Task] = []
        self._begun = 0
        # It must not die with a node that runs parts.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(_node_of_this(ray), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        device = {"num_gpus": 1, "num_cpus": 0} if setting.device == "cuda" else {"num_cpus": 1}
        self._run = ray.remote(_run).options(max_retries=0, **device)

    def card(self) -> Subject:
        """What the subject says of itself on a node. Raises CannotRun where it cannot be made there."""
        task = self._submit(None, None)
        try:
            self._ray.get(task.reference, timeout=SECONDS_TO_START)
        except self._ray.exceptions.RayError as error:
            raise CannotRun(f"No node of the cluster could make the subject: {_last_line(error)}") from error
        finally:
            self.end(task)
        said = [pickle.loads(content) for content in self._taken().get(task.key, [])]
        if not said:
            raise CannotRun("The process that made the subject on a node was killed.")
        return _card(said[0])

    def begin(self, part: Part) -> Task:
        """Submit a task."""
        return self._submit(part, None if part.seconds is None else time.monotonic() + part.seconds)

    def _submit(self, part: Part | None, due: float | None) -> Task:
        self._begun += 1
        order = Order(self._setting, part, self._files, packed(self._database))
        self._asked(self._mailbox.expect.remote(self._begun))
        reference = self._run.remote(pickle.dumps(order), self._mailbox, self._begun)
        self._tasks.append(Task(self._begun, reference, due, self._kept.of_one_part()))
        return self._tasks[-1]

    def hear(self, seconds: float) -> Iterator[tuple[Task, Word | None]]:
        """What was said within some seconds. What never began is over when its time is up: no node had room for it."""
        tasks = list(self._tasks)
        # In this order: a task's last word is there before the task has ended.
        self._ray.wait([task.reference for task in tasks], timeout=seconds)
        ended, _ = self._ray.wait([task.reference for task in tasks], num_returns=len(tasks), timeout=0)
        said = self._taken()
        for task in tasks:
            for content in said.get(task.key, []):
                word = self._gathered(task, pickle.loads(content))
                if word is not None:
                    yield task, word
            if task.reference in ended:
                yield task, None
            elif not task.has_spoken and task.due is not None and time.monotonic() > task.due:
                yield from self._never_begun(task)

    def _never_begun(self, task: Task) -> Iterator[tuple[Task, Word]]:
        if not self._asked(self._mailbox.has_begun.remote(task.key)):
            yield task, ("over", State())

    def _gathered(self, task: Task, said: Said) -> Word | None:
        """Keep what a part has found and what failed in it, as the part itself would; return its word."""
        task.has_spoken = True
        if said.examples:
            unpack(said.examples, self._database)
        word = said.here()
        if word is not None and isinstance(word[1], State):
            self._keep(task, word[1])
        return word

    def _keep(self, task: Task, state: State) -> None:
        for fault in state.met.keys() - task.state.met.keys():
            task.kept.met(fault, state.met[fault].shrunk, state.met[fault].verdict)
        known = task.state.met.keys() | state.findings.keys()
        for fault in known - state.met.keys() - task.state.findings.keys():
            task.kept.settled(fault, state.findings.get(fault))
        task.state = state

    def stop(self, task: Task) -> None:
        """Tell a part to settle and end; one that no node had room for is at its end."""
        task.due = time.monotonic()
        self._mailbox.tell.remote(task.key, STOP)

    def end(self, task: Task) -> None:
        """Let a task end, now or as soon as it begins. (Ray's own way to cancel may end this process in its stead.)"""
        self._tasks.remove(task)
        self._mailbox.tell.remote(task.key, END)

    def _taken(self) -> dict[int, list[bytes]]:
        taken: dict[int, list[bytes]] = self._asked(self._mailbox.take.remote())
        return taken

    def _asked(self, reference: Any) -> Any:
        """What the mailbox answers, which stands here: where it is gone, so is the cluster."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise CannotRun(f"The Ray cluster was lost; failures so far are saved: {_last_line(error)}") from error


def _card(said: Said) -> Subject:
    if said.card is not None:
        return said.card
    raise CannotRun("The subject cannot be made." if said.word is None else said.word[1])


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _node_of_this(ray: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


class Mailbox:
    """An actor beside the one who asks: words of tasks wait here to be taken, and tasks learn here what to do."""

    def __init__(self) -> None:
        self._words: dict[int, deque[bytes]] = {}
        self._expected: dict[int, float] = {}
        self._begun: set[int] = set()
        self._told: dict[int, str] = {}

    def expect(self, key: int) -> None:
        """A task is about to be submitted."""
        self._expected[key] = time.monotonic()

    def begin(self, key: int) -> float:
        """A task begins; return how many seconds it has waited for a node."""
        self._begun.add(key)
        return time.monotonic() - self._expected[key]

    def has_begun(self, key: int) -> bool:
        """Whether a task has ever run."""
        return key in self._begun

    def say(self, key: int, words: list[bytes]) -> str | None:
        """Leave words; return what the task is to do: STOP, END, or None to go on."""
        self._words.setdefault(key, deque()).extend(words)
        return self._told.get(key)

    def take(self) -> dict[int, list[bytes]]:
        """All words that wait."""
        taken, self._words = self._words, {}
        return {key: list(words) for key, words in taken.items()}

    def tell(self, key: int, what: str) -> None:
        """Let a task know what it is to do."""
        self._told[key] = what


def _run(content: bytes, mailbox: Any, key: int) -> None:
    """A task: carry an order out in a process of its own, which is no fork of Ray's many threads."""
    ray = _ray()
    order: Order = pickle.loads(content)
    waited = ray.get(mailbox.begin.remote(key))
    if order.part is not None and order.part.seconds is not None:
        order = replace(order, part=replace(order.part, seconds=order.part.seconds - waited))

    def say(words: list[bytes]) -> str | None:
        told: str | None = ray.get(mailbox.say.remote(key, words))
        return told

    if say([]) is None:
        with tempfile.TemporaryDirectory() as folder:
            _carry_out(order, Path(folder), say)


def _carry_out(order: Order, folder: Path, say: Say) -> None:
    process, connection = launch(order, folder)
    try:
        while _relay(connection, say):
            pass
    finally:
        connection.close()
        process.kill()
        process.wait()


def _relay(connection: Connection[Any, Any], say: Say) -> bool:
    """Pass on what is said within a moment, and what is to be done; return whether more may come."""
    words: list[bytes] = []
    lives = True
    try:
        while connection.poll(0.0 if words else SECONDS_BETWEEN_WORDS):
            words.append(connection.recv_bytes())
    except (EOFError, OSError):
        lives = False
    told = say(words)
    if told == STOP and lives:
        with suppress(OSError):
            connection.send(STOP)
    return lives and told != END
