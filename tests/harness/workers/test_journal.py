"""The case that was running when a campaign was killed is known to the next one."""

import os
import signal

import pytest

from harness.judging.examine import Examined, Question
from harness.workers.journal import Ahead, left_behind
from strategies import AttentionCase, Geometry

FIRST, SECOND = AttentionCase(Geometry(Nk=40)), AttentionCase(Geometry(Nk=2))


class Silent:
    """An examiner that finds nothing."""

    def examine(self, question):
        return Examined()

    def afresh(self, question):
        return None

    def close(self):
        pass


@pytest.fixture
def ahead(tmp_path):
    return Ahead(Silent(), "some", "cpu", tmp_path)


def killed_at(folder, *cases, subject="some", device="cpu"):
    """A process that is killed at the last of some cases."""
    pid = os.fork()
    if pid == 0:
        examiner = Ahead(Silent(), subject, device, folder)
        for case in cases:
            examiner.examine(Question(case))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def told(folder, subject="some", device="cpu"):
    return list(left_behind(subject, device, folder))


def test_the_last_case_is_told_once(tmp_path):
    killed_at(tmp_path, FIRST, SECOND)
    assert told(tmp_path) == [SECOND]
    assert told(tmp_path) == []


def test_a_case_that_was_run_afresh_is_told(tmp_path, ahead):
    ahead.afresh(Question(FIRST))
    ahead._file.close()
    assert told(tmp_path) == [FIRST]


def test_what_still_runs_is_not_told(tmp_path, ahead):
    ahead.examine(Question(FIRST))
    assert told(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 1


def test_a_good_end_leaves_nothing(tmp_path, ahead):
    ahead.examine(Question(FIRST))
    ahead.close()
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_a_process_that_lives_again_hides_nothing(tmp_path):
    killed_at(tmp_path, FIRST)
    (note,) = tmp_path.iterdir()
    note.rename(tmp_path / f"{os.getpid()}-00000000.json")
    assert told(tmp_path) == [FIRST]


@pytest.mark.parametrize("other", [{"subject": "another"}, {"device": "cuda"}])
def test_the_cases_of_others_are_left_to_them(tmp_path, other):
    killed_at(tmp_path, FIRST, **other)
    assert told(tmp_path) == []
    assert told(tmp_path, **other) == [FIRST]


def test_what_is_not_asked_for_stays(tmp_path):
    killed_at(tmp_path, FIRST)
    killed_at(tmp_path, FIRST)
    next(left_behind("some", "cpu", tmp_path))
    assert told(tmp_path) == [FIRST]


def test_two_that_ask_at_the_same_time_are_told_different_cases(tmp_path):
    killed_at(tmp_path, FIRST)
    one, other = left_behind("some", "cpu", tmp_path), left_behind("some", "cpu", tmp_path)
    assert [*one, *other] == [FIRST]


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"subject": "some"}\n', b"\xff\n"])
def test_a_torn_note_is_cleared_away(tmp_path, content):
    (tmp_path / "1-00000000.json").write_bytes(content)
    assert told(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_remembered_and_cases_run(tmp_path):
    (tmp_path / "file").touch()
    examiner = Ahead(Silent(), "some", "cpu", tmp_path / "file" / "running")
    assert examiner.examine(Question(FIRST)) == Examined()
    examiner.close()
    assert told(tmp_path / "file" / "running") == []
