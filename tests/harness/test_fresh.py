"""Questions are answered by processes that share nothing but what there was at the start."""

import os
import signal

import pytest

from harness.fresh import Fresh, can_fork


@pytest.fixture
def counting():
    count = []

    def next_of(step):
        count.append(step)
        if step < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(count)

    fresh = Fresh(next_of)
    yield fresh
    fresh.close()


def test_nothing_is_remembered(counting):
    assert [counting.ask(n) for n in (1, 2, 3)] == [1, 2, 3]


def test_a_question_that_kills_its_process_has_no_answer(counting):
    assert counting.ask(-1) is None
    assert counting.ask(5) == 5


def test_after_the_end_there_is_no_answer(counting):
    counting.close()
    assert counting.ask(1) is None


def test_cuda_cannot_be_forked():
    assert not can_fork("cuda")
