"""Children of a fork server share only its first state, and their exit statuses are reported."""

import faulthandler
import os
import signal
import time
from pathlib import Path

import pytest

from harness.workers.forkserver import ForkServer, ForkServerLost


@pytest.fixture
def server():
    count = []

    def serve(connection):
        faulthandler.disable()
        step = connection.recv()
        count.append(step)
        if step < 0:
            os.kill(os.getpid(), -step)
        connection.send(sum(count))
        if step == 0:
            connection.poll(None)

    server = ForkServer(serve)
    yield server
    server.close()


def ask(server, step):
    child = server.fork()
    child.connection.send(step)
    return child


def test_nothing_is_remembered(server):
    assert [ask(server, n).connection.recv() for n in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_is_reported_by_its_signal(server, number):
    assert server.wait(ask(server, -number)) == -number
    assert server.wait(ask(server, 5)) == 0


def test_a_child_that_waits_is_ended(server):
    child = ask(server, 0)
    child.connection.recv()
    assert server.kill(child) == -signal.SIGKILL


def test_an_interrupted_request_is_not_answered_to_the_next(server, monkeypatch):
    monkeypatch.setattr(server, "_receive_number", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        server.fork()
    monkeypatch.undo()
    with pytest.raises(ForkServerLost):
        server.fork()


def test_children_end_with_the_servers_parent():
    """The parent is a fork of this process, killed without any chance to clean up."""
    ours, theirs = os.pipe()
    parent = os.fork()
    if parent == 0:
        server = ForkServer(lambda connection: (os.write(theirs, b"%d\n" % os.getpid()), signal.pause()))
        server.fork()
        signal.pause()
    child = int(os.read(ours, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert _ends(child)


def _ends(pid, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.02)
    return False
