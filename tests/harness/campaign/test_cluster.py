"""A campaign on a Ray cluster of two nodes, one of which dies; without Ray, a sentence."""

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from harness.campaign.keeper import CorpusKeeper
from harness.campaign.parallel.cluster import END, ClusterTask, ClusterTasks, Mailbox, _relay, save_found
from harness.campaign.parallel.forks import STOP
from harness.campaign.parallel.jobs import State
from harness.cli.main import main
from harness.corpus import entries
from tests.harness.campaign.test_jobs import finding
from tests.harness.processes import SUBJECTS, until

TOKEN = "FLASHATTEST_CLUSTER_OF_TESTS"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some.py").write_text(SUBJECTS)


def fuzz(address, *more, subject="some.py:faulty"):
    return main(
        ["fuzz", "--subject", subject, "--device", "cpu", "--cluster", address, "--json", "out.json", *map(str, more)]
    )


def saved():
    return list(Path("regressions").rglob("*.json"))


# --- without a cluster


def test_where_ray_is_missing_a_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert fuzz("auto") == 2
    assert capsys.readouterr().err == (
        "flashattest: --cluster needs Ray, which is not installed here: pip install 'flashattest[cluster]'.\n"
    )


def test_the_mailbox_keeps_envelopes_until_they_are_taken_and_passes_instructions():
    mailbox = Mailbox()
    mailbox.expect(1)
    assert not mailbox.has_started(1)
    assert 0 <= mailbox.start(1) < 60
    assert mailbox.has_started(1)
    assert mailbox.post(1, [b"a"]) is None
    mailbox.instruct(1, STOP)
    assert mailbox.post(1, [b"b"]) == STOP
    assert (mailbox.take(), mailbox.take()) == ({1: [b"a", b"b"]}, {})


class Connected:
    """A connection on which some envelopes wait, and which is closed after them."""

    def __init__(self, *envelopes):
        self.envelopes, self.sent = list(envelopes), []

    def poll(self, seconds):
        return True

    def recv_bytes(self):
        if not self.envelopes:
            raise EOFError
        return self.envelopes.pop(0)

    def send(self, value):
        self.sent.append(value)


def test_the_last_envelopes_of_a_part_are_passed_on():
    passed = []
    assert not _relay(Connected(b"1", b"2"), passed.extend)
    assert passed == [b"1", b"2"]


def test_what_is_to_be_done_is_passed_on_the_other_way():
    connection = Connected()
    connection.poll = lambda seconds: False
    assert _relay(connection, lambda envelopes: None)
    assert _relay(connection, lambda envelopes: STOP)
    assert connection.sent == [STOP]
    assert not _relay(connection, lambda envelopes: END)


def test_what_a_part_meets_is_saved_here_until_it_is_settled(tmp_path):
    task = ClusterTask(1, None, None, CorpusKeeper(tmp_path, "some", "cpu"))
    for state, kinds in [
        (State(met=finding("raised")), ["raised"]),
        (State(met=finding("raised")), ["raised"]),
        (State(findings=finding(), met=finding("timed_out")), ["timed_out", "wrong_values"]),
        (State(findings=finding()), ["wrong_values"]),
    ]:
        save_found(task, state)
        assert sorted(entries.load(path).kind for path in tmp_path.rglob("*/*.json")) == kinds
    (found,) = task.state.findings.values()
    assert entries.load(found.file).kind == "wrong_values"


# --- with one


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN, str(os.getpid()))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.other = cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def parts_that_run():
    """Processes of this cluster's nodes that carry out an order."""
    token, found = f"{TOKEN}={os.getpid()}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_ours = token in (process / "environ").read_bytes().split(b"\0")
            if is_ours and b"harness.campaign.parallel.remote" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def when_saved(act):
    """Do something in a thread of its own once a failure has been saved."""
    thread = threading.Thread(target=lambda: until(saved, 60) and act())
    thread.start()
    return thread


def outcome():
    return json.loads(Path("out.json").read_text())


@pytest.mark.parametrize("address", ["here", "localhost:port", "nowhere.invalid:6379"])
def test_a_cluster_that_cannot_be_reached_is_reported(capsys, address):
    pytest.importorskip("ray")
    assert fuzz(address) == 2
    assert address in capsys.readouterr().err


def test_an_address_where_nothing_answers_is_reported(capsys):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert fuzz(address) == 2
    assert f"No Ray cluster answers at {address}" in capsys.readouterr().err


def test_a_subject_that_the_nodes_do_not_find_is_reported(cluster, capsys):
    assert fuzz(cluster.address, subject="nowhere:attention") == 2
    assert "'nowhere' cannot be imported" in capsys.readouterr().err


def test_ctrl_c_ends_the_parts_and_loses_nothing(cluster):
    ran = []
    pressed = when_saved(lambda: ran.extend(parts_that_run()) or os.kill(os.getpid(), signal.SIGINT))
    assert fuzz(cluster.address, "--time", 100) == 1
    pressed.join()
    assert ran
    assert outcome()["seconds"] < 60
    assert [failure["kind"] for failure in outcome()["failures"]] == ["wrong_values"]
    assert until(lambda: not parts_that_run())


def test_a_node_dies_and_nothing_that_was_found_is_lost(cluster, monkeypatch):
    started = []
    start = ClusterTasks.start
    monkeypatch.setattr(ClusterTasks, "start", lambda self, part: started.append(part) or start(self, part))
    death = when_saved(lambda: cluster.remove_node(cluster.other, allow_graceful=False))
    assert fuzz(cluster.address, "--cases", 80) == 1
    death.join()
    (failure,) = outcome()["failures"]
    assert failure["kind"] == entries.load(Path(failure["corpus_file"])).kind == "wrong_values"
    assert outcome()["cases"] >= 80
    assert len(started) == 3
    assert list(Path(".flashattest/campaigns").rglob("*"))
    assert until(lambda: not parts_that_run())
