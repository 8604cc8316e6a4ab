"""Parts of a campaign as tasks of a Ray cluster, each in a process of its own; what they find is gathered here.

Ray is an optional extra, imported only where a cluster is asked for. A node that dies costs the cases that it was
running: its parts are started again elsewhere, for the time that is left.
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

from harness.campaign.keeper import CorpusKeeper
from harness.campaign.parallel.forks import STOP
from harness.campaign.parallel.jobs import Part, PartMessage, State
from harness.campaign.parallel.remote import Envelope, Order, files_of, launch, pack, unpack
from harness.campaign.setting import Setting
from harness.errors import CannotRun
from harness.subject.declaration import Subject
from harness.subject.signature import split_signature, with_signature

SECONDS_TO_CONNECT = 5.0
SECONDS_TO_START = 300.0
"""In which a node must have loaded the subject: the first task of a cluster may wait for a machine to boot."""

SECONDS_BETWEEN_POSTS = 0.5
END = "end"
Post = Callable[[list[bytes]], str | None]
"""Leaves envelopes for the process that started the task; returns STOP, END, or None to go on."""


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
        return self._count(device, [self._ray.cluster_resources()])

    def slots_of_a_node(self, device: str) -> int:
        """How many of them may share a machine."""
        return self._count(device, [node["Resources"] for node in self._ray.nodes() if node["Alive"]])

    def _count(self, device: str, resources: list[dict[str, float]]) -> int:
        kind = _KINDS[device]
        count = max((int(each.get(kind, 0)) for each in resources), default=0)
        if not count:
            raise CannotRun(f"The Ray cluster at {self._address} has no {kind}s; it would need one for each job.")
        return count

    def backend(self, setting: Setting, keeper: CorpusKeeper, database: Path | None) -> ClusterTasks:
        """Return what runs parts here. keeper, database: where findings and examples are gathered (None: none)."""
        return ClusterTasks(self._ray, setting, keeper, database)


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
    """Try to connect first: Ray itself would try for minutes."""
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
class ClusterTask:
    """A part that runs on a node, or waits for one.

    due: when its time is up, by this machine's clock; None: no limit. keeper: saves what it finds.
    """

    key: int
    reference: Any
    due: float | None
    keeper: CorpusKeeper
    has_posted: bool = False
    state: State = field(default_factory=State)


class ClusterTasks:
    """A backend that runs parts on the nodes of a cluster, and saves here what they find."""

    def __init__(self, ray: Any, setting: Setting, keeper: CorpusKeeper, database: Path | None) -> None:
        self._ray, self._keeper, self._database = ray, keeper, database
        self._files = files_of(setting.name)
        bare, signature = split_signature(setting.name)
        file, _, attribute = bare.rpartition(":")
        place = with_signature(f"{Path(file).name}:{attribute}", signature) if self._files else None
        self._setting = replace(setting, place=place)
        self._tasks: list[ClusterTask] = []
        self._submitted = 0
        # It must not die with a node that runs parts.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(_node_of_this(ray), soft=False)
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        device = {"num_gpus": 1, "num_cpus": 0} if setting.device == "cuda" else {"num_cpus": 1}
        self._run = ray.remote(_run).options(max_retries=0, **device)

    def card(self) -> Subject:
        """Return what the subject declares on a node. Raises CannotRun where it cannot be made there."""
        task = self._submit(None, None)
        try:
            self._ray.get(task.reference, timeout=SECONDS_TO_START)
        except self._ray.exceptions.RayError as error:
            raise CannotRun(f"No node of the cluster could make the subject: {_last_line(error)}") from error
        finally:
            self.kill(task)
        envelopes = [pickle.loads(content) for content in self._take().get(task.key, [])]
        if not envelopes:
            raise CannotRun("The process that made the subject on a node was killed.")
        return _card(envelopes[0])

    def start(self, part: Part) -> ClusterTask:
        """Submit a task."""
        return self._submit(part, None if part.seconds is None else time.monotonic() + part.seconds)

    def _submit(self, part: Part | None, due: float | None) -> ClusterTask:
        self._submitted += 1
        order = Order(self._setting, part, self._files, {} if self._database is None else pack(self._database))
        self._ask(self._mailbox.expect.remote(self._submitted))
        reference = self._run.remote(pickle.dumps(order), self._mailbox, self._submitted)
        self._tasks.append(ClusterTask(self._submitted, reference, due, self._keeper.for_another_part()))
        return self._tasks[-1]

    def receive(self, seconds: float) -> Iterator[tuple[ClusterTask, PartMessage | None]]:
        """Yield what is posted within some seconds. A task that no node had room for is over when its time is up."""
        tasks = list(self._tasks)
        # In this order: a task's last message is posted before the task ends.
        self._ray.wait([task.reference for task in tasks], timeout=seconds)
        ended, _ = self._ray.wait([task.reference for task in tasks], num_returns=len(tasks), timeout=0)
        posted = self._take()
        for task in tasks:
            for content in posted.get(task.key, []):
                message = self._open(task, pickle.loads(content))
                if message is not None:
                    yield task, message
            if task.reference in ended:
                yield task, None
            elif not task.has_posted and task.due is not None and time.monotonic() > task.due:
                yield from self._end_unstarted(task)

    def _end_unstarted(self, task: ClusterTask) -> Iterator[tuple[ClusterTask, PartMessage]]:
        if not self._ask(self._mailbox.has_started.remote(task.key)):
            yield task, ("over", State())

    def _open(self, task: ClusterTask, envelope: Envelope) -> PartMessage | None:
        """Save what a part has found and the examples that failed in it; return its message."""
        task.has_posted = True
        if envelope.examples and self._database is not None:
            unpack(envelope.examples, self._database)
        message = envelope.open()
        if message is None or not isinstance(message[1], State):
            return message
        save_found(task, message[1])
        return message[0], task.state

    def stop(self, task: ClusterTask) -> None:
        """Ask a part to settle and end; one that no node had room for is over."""
        task.due = time.monotonic()
        self._mailbox.instruct.remote(task.key, STOP)

    def kill(self, task: ClusterTask) -> None:
        """Let a task end, now or as soon as it starts. (Ray's own way to cancel may end this process instead.)"""
        self._tasks.remove(task)
        self._mailbox.instruct.remote(task.key, END)

    def _take(self) -> dict[int, list[bytes]]:
        taken: dict[int, list[bytes]] = self._ask(self._mailbox.take.remote())
        return taken

    def _ask(self, reference: Any) -> Any:
        """Return what the mailbox answers. It runs on this node: where it is gone, so is the cluster."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise CannotRun(f"The Ray cluster was lost; failures so far are saved: {_last_line(error)}") from error


def save_found(task: ClusterTask, state: State) -> None:
    """Save what is new in a task's state, and keep that state with the files of its findings."""
    before, findings = task.state, {}
    for fault, finding in state.met.items():
        if fault not in before.met:
            task.keeper.save_met(fault, finding.shrunk, finding.verdict)
    for fault, finding in state.findings.items():
        known = before.findings.get(fault)
        file = task.keeper.save_settled(fault, finding) if known is None else known.file
        findings[fault] = replace(finding, file=file)
    for fault in before.met.keys() - state.met.keys() - findings.keys():
        task.keeper.save_settled(fault, None)
    task.state = replace(state, findings=findings)


def _card(envelope: Envelope) -> Subject:
    if envelope.card is not None:
        return envelope.card
    raise CannotRun("The subject cannot be made." if envelope.message is None else envelope.message[1])


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _node_of_this(ray: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


class Mailbox:
    """An actor on this node: tasks post envelopes, which wait here to be taken, and read instructions."""

    def __init__(self) -> None:
        self._posted: dict[int, deque[bytes]] = {}
        self._expected: dict[int, float] = {}
        self._started: set[int] = set()
        self._instructions: dict[int, str] = {}

    def expect(self, key: int) -> None:
        """Note that a task is about to be submitted."""
        self._expected[key] = time.monotonic()

    def start(self, key: int) -> float:
        """Note that a task starts; return how many seconds it has waited for a node."""
        self._started.add(key)
        return time.monotonic() - self._expected[key]

    def has_started(self, key: int) -> bool:
        """Whether a task has ever run."""
        return key in self._started

    def post(self, key: int, envelopes: list[bytes]) -> str | None:
        """Leave envelopes; return what the task is to do: STOP, END, or None to go on."""
        self._posted.setdefault(key, deque()).extend(envelopes)
        return self._instructions.get(key)

    def take(self) -> dict[int, list[bytes]]:
        """Return all envelopes that wait, and drop them here."""
        taken, self._posted = self._posted, {}
        return {key: list(envelopes) for key, envelopes in taken.items()}

    def instruct(self, key: int, what: str) -> None:
        """Let a task know what it is to do."""
        self._instructions[key] = what


def _run(content: bytes, mailbox: Any, key: int) -> None:
    """A task: carry an order out in a process of its own, which is no fork of Ray's many threads."""
    ray = _ray()
    order: Order = pickle.loads(content)
    waited = ray.get(mailbox.start.remote(key))
    if order.part is not None and order.part.seconds is not None:
        order = replace(order, part=replace(order.part, seconds=order.part.seconds - waited))

    def post(envelopes: list[bytes]) -> str | None:
        instruction: str | None = ray.get(mailbox.post.remote(key, envelopes))
        return instruction

    if post([]) is None:
        with tempfile.TemporaryDirectory() as folder:
            _carry_out(order, Path(folder), post)


def _carry_out(order: Order, folder: Path, post: Post) -> None:
    process, connection = launch(order, folder)
    try:
        while _relay(connection, post):
            pass
    finally:
        connection.close()
        process.kill()
        process.wait()


def _relay(connection: Connection[Any, Any], post: Post) -> bool:
    """Post what comes within a moment, and pass on an instruction to stop; return whether more may come."""
    envelopes: list[bytes] = []
    is_open = True
    try:
        while connection.poll(0.0 if envelopes else SECONDS_BETWEEN_POSTS):
            envelopes.append(connection.recv_bytes())
    except (EOFError, OSError):
        is_open = False
    instruction = post(envelopes)
    if instruction == STOP and is_open:
        with suppress(OSError):
            connection.send(STOP)
    return is_open and instruction != END
