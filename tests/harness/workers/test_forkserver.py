"""Children of a zygote share nothing but what there was at the start, and their ends are told apart."""

import faulthandler
import os
import signal
import time
from pathlib import Path

import pytest

from harness.workers.forkserver import Lost, Zygote


@pytest.fixture
def zygote():
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

    zygote = Zygote(serve)
    yield zygote
    zygote.close()


def ask(zygote, step):
    child = zygote.child()
    child.connection.send(step)
    return child


def test_nothing_is_remembered(zygote):
    assert [ask(zygote, n).connection.recv() for n in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_dies_is_told_by_its_signal(zygote, number):
    assert zygote.status(ask(zygote, -number)) == -number
    assert zygote.status(ask(zygote, 5)) == 0


def test_a_child_that_waits_is_ended(zygote):
    child = ask(zygote, 0)
    child.connection.recv()
    assert zygote.end(child) == -signal.SIGKILL


def test_a_question_broken_off_is_not_answered_to_the_next(zygote, monkeypatch):
    monkeypatch.setattr(zygote, "_number", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        zygote.child()
    monkeypatch.undo()
    with pytest.raises(Lost):
        zygote.child()


def test_children_end_with_the_zygotes_parent():
    """The parent is a fork of this process, killed without any chance to clean up."""
    ours, theirs = os.pipe()
    parent = os.fork()
    if parent == 0:
        zygote = Zygote(lambda connection: (os.write(theirs, b"%d\n" % os.getpid()), signal.pause()))
        zygote.child()
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
