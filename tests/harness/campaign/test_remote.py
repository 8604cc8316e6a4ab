"""A part runs in a process that knows its order alone, on any machine."""

import pickle
from pathlib import Path

import pytest

from harness.campaign.parallel import remote
from harness.campaign.parallel.forks import STOP
from harness.campaign.parallel.jobs import Part
from harness.campaign.parallel.remote import Order, files_of, launch, pack, unpack
from harness.campaign.setting import Setting
from harness.workers import WorkerLimits
from tests.harness.processes import SUBJECTS, is_alive, until

FAULTY, HANGS = "some.py:faulty", "some.py:hangs"


@pytest.fixture
def launched(tmp_path):
    """Starts an order in an empty folder; returns the connection."""
    processes = []

    def start(subject, cases=None, examples=None, seconds=None):
        setting = Setting(f"far/away/{subject}", None, "cpu", WorkerLimits(), place=subject)
        part = None if cases is None else Part(0, 1, seconds, cases)
        process, connection = launch(Order(setting, part, {"some.py": SUBJECTS.encode()}, examples or {}), tmp_path)
        processes.append(process)
        return process, connection

    yield start
    for process in processes:
        process.kill()
        process.wait()


def receive_all(connection):
    received = []
    try:
        while True:
            received.append(connection.recv())
    except EOFError:
        return received


def test_a_part_says_how_it_goes_what_it_found_and_its_examples(launched):
    _, connection = launched(FAULTY, cases=20)
    received = receive_all(connection)
    kind, state = received[-1].open()
    assert (kind, state.tally.cases, list(state.findings)) == ("over", 20, [("wrong_values", "values")])
    assert {name for each in received for name in each.examples or {}}
    assert 0 < state.tally.seconds < 60


def test_examples_that_came_with_the_order_are_tried_first(launched, tmp_path):
    _, connection = launched(FAULTY, cases=20)
    found = {
        name: content for received in receive_all(connection) for name, content in (received.examples or {}).items()
    }
    _, connection = launched(FAULTY, cases=1, examples=found)
    (finding,) = receive_all(connection)[-1].open()[1].findings.values()
    assert finding.cases_to_first <= 1


def test_the_card_is_sent_under_the_subjects_own_name(launched):
    (received,) = receive_all(launched(FAULTY)[1])
    assert received.card.name == "far/away/some.py:faulty"


def test_what_cannot_run_is_received(launched):
    for cases in (None, 5):
        received = receive_all(launched("some.py:nothing", cases=cases)[1])
        assert received[-1].message == ("cannot", "some.py has no function 'nothing'.")


def test_a_part_ends_when_it_is_asked_to(launched):
    _, connection = launched("some.py:slow", cases=10**6)
    connection.recv()
    connection.send(STOP)
    assert receive_all(connection)[-1].message[0] == "over"


def test_a_part_ends_with_the_connection_even_while_a_case_hangs(launched):
    process, connection = launched(HANGS, cases=10)
    assert until(lambda: not connection.poll(0.5))
    connection.close()
    assert process.wait(10) == 1
    assert not is_alive(process.pid)


# --- what travels


def test_a_file_travels_with_the_other_files_of_its_folder_and_a_module_stays(tmp_path, monkeypatch):
    (tmp_path / "some.py").write_text("1")
    (tmp_path / "other.py").write_text("2")
    assert files_of(f"{tmp_path}/some.py:f") == {"some.py": b"1", "other.py": b"2"}
    monkeypatch.setattr(remote, "MOST_BYTES", 1)
    assert files_of(f"{tmp_path}/some.py:f") == {"some.py": b"1"}
    assert files_of("package.module:f") == files_of("sdpa") == {}


def test_examples_are_packed_as_far_as_they_are_small_and_unpacked_where_they_are_new(tmp_path, monkeypatch):
    examples = {"0a/1": b"1", "0a/2": b"22", "0b/3": b"333"}
    unpack(examples, tmp_path / "here")
    unpack({"0a/1": b"other"}, tmp_path / "here")
    assert pack(tmp_path / "here") == examples
    monkeypatch.setattr(remote, "MOST_BYTES", 3)
    assert list(pack(tmp_path / "here")) == ["0a/1", "0a/2"]
    assert pack(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("name", ["../0a/1", "0a/../../1", "/etc/1", "1", "0a/1.py"])
def test_an_example_stays_in_its_folder(tmp_path, name):
    unpack({name: b"1"}, tmp_path / "here")
    assert list(tmp_path.rglob("*")) == []


def test_where_no_example_can_be_written_none_is(tmp_path):
    (tmp_path / "file").touch()
    unpack({"0a/1": b"1"}, tmp_path / "file")
    assert list(Path(tmp_path).iterdir()) == [tmp_path / "file"]


def test_an_order_can_be_sent():
    order = Order(Setting("sdpa", "regex", "cpu", WorkerLimits()), Part(0, 1, None, 2), {}, {})
    assert pickle.loads(pickle.dumps(order)) == order
