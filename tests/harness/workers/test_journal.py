"""The case that was running when a campaign was killed is known to the next one."""

import os
import signal

import pytest

from harness.judging.examine import Examined, Question
from harness.workers.journal import Journaled, take_left_behind
from strategies import AttentionCase, Geometry

FIRST, SECOND = AttentionCase(Geometry(Nk=40)), AttentionCase(Geometry(Nk=2))


class Silent:
    """An examiner that finds nothing."""

    def examine(self, question):
        return Examined()

    def examine_fresh(self, question):
        return None

    def close(self):
        pass


@pytest.fixture
def journaled(tmp_path):
    return Journaled(Silent(), "some", "cpu", tmp_path)


def killed_at(folder, *cases, subject="some", device="cpu"):
    """A process that is killed at the last of some cases."""
    pid = os.fork()
    if pid == 0:
        examiner = Journaled(Silent(), subject, device, folder)
        for case in cases:
            examiner.examine(Question(case))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def taken(folder, subject="some", device="cpu"):
    return list(take_left_behind(subject, device, folder))


def test_the_last_case_is_taken_once(tmp_path):
    killed_at(tmp_path, FIRST, SECOND)
    assert taken(tmp_path) == [SECOND]
    assert taken(tmp_path) == []


def test_a_case_that_was_run_in_a_new_process_is_taken(tmp_path, journaled):
    journaled.examine_fresh(Question(FIRST))
    journaled._file.close()
    assert taken(tmp_path) == [FIRST]


def test_what_still_runs_is_not_taken(tmp_path, journaled):
    journaled.examine(Question(FIRST))
    assert taken(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 1


def test_a_good_end_leaves_nothing(tmp_path, journaled):
    journaled.examine(Question(FIRST))
    journaled.close()
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_a_process_that_lives_again_hides_nothing(tmp_path):
    killed_at(tmp_path, FIRST)
    (note,) = tmp_path.iterdir()
    note.rename(tmp_path / f"{os.getpid()}-00000000.json")
    assert taken(tmp_path) == [FIRST]


@pytest.mark.parametrize("other", [{"subject": "another"}, {"device": "cuda"}])
def test_the_cases_of_others_are_left_to_them(tmp_path, other):
    killed_at(tmp_path, FIRST, **other)
    assert taken(tmp_path) == []
    assert taken(tmp_path, **other) == [FIRST]


def test_what_is_not_asked_for_stays(tmp_path):
    killed_at(tmp_path, FIRST)
    killed_at(tmp_path, FIRST)
    next(take_left_behind("some", "cpu", tmp_path))
    assert taken(tmp_path) == [FIRST]


def test_two_that_read_at_the_same_time_take_different_cases(tmp_path):
    killed_at(tmp_path, FIRST)
    one, other = take_left_behind("some", "cpu", tmp_path), take_left_behind("some", "cpu", tmp_path)
    assert [*one, *other] == [FIRST]


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"subject": "some"}\n', b"\xff\n"])
def test_a_torn_note_is_cleared_away(tmp_path, content):
    (tmp_path / "1-00000000.json").write_bytes(content)
    assert taken(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_remembered_and_cases_run(tmp_path):
    (tmp_path / "file").touch()
    examiner = Journaled(Silent(), "some", "cpu", tmp_path / "file" / "running")
    assert examiner.examine(Question(FIRST)) == Examined()
    examiner.close()
    assert taken(tmp_path / "file" / "running") == []
