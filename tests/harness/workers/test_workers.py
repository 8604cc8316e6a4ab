"""A case that ends, hangs or floods its process is a failure like any other, and the next case has a new worker."""

import ctypes
import os
import signal
import sys
import time
import warnings
from contextlib import closing

import pytest
import torch

from harness.campaign.campaign import Campaign
from harness.errors import CannotRun
from harness.judging.examine import Question
from harness.subject.declaration import describe
from harness.subject.loading import load
from harness.workers import Apart, Here, WorkerLimits
from harness.workers.last_words import last_words
from harness.workers.pool import open_appending
from strategies import AttentionCase, Geometry
from tests.harness import toys

EASY, HARD = AttentionCase(Geometry(Nk=2)), AttentionCase(Geometry(Nk=17))


@pytest.fixture
def apart():
    """Makes an examiner of a toy that does something else on HARD, and closes it."""
    made = []

    def make(fall=lambda: None, **limits):
        def falls(q, k, v):
            if k.shape[2] == 17:
                fall()
            return toys.right(q, k, v)

        made.append(Apart(lambda: describe(falls), "cpu", WorkerLimits(**limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def only(examined):
    (verdict,) = examined.verdicts
    return verdict


def test_what_comes_back_is_what_this_process_would_find(apart):
    examined = apart().examine(Question(EASY))
    assert examined.verdicts == ()
    assert examined.compared["O"].ok


@pytest.mark.parametrize(
    ("fall", "how"),
    [
        (lambda: os._exit(3), "exit status 3"),
        (os.abort, "SIGABRT"),
        (lambda: ctypes.string_at(0), "SIGSEGV"),
        (lambda: sys.exit("no"), "exit status 1"),
    ],
)
def test_a_crash_is_reported_and_costs_that_case_alone(apart, fall, how):
    examiner = apart(fall)
    assert only(examiner.examine(Question(HARD))).kind == "crashed"
    assert how in only(examiner.examine(Question(HARD))).sentence
    assert examiner.examine(Question(EASY)).verdicts == ()


def test_the_last_line_is_reported(apart):
    def fall():
        print("heap corrupted", file=sys.stderr, flush=True)
        os.abort()

    assert "heap corrupted" in only(apart(fall).examine(Question(HARD))).sentence


def test_a_crash_names_the_line_of_the_subject_and_no_warning(apart):
    def fall():
        warnings.warn("deprecated, with an error", stacklevel=1)
        ctypes.string_at(0)

    verdict = only(apart(fall).examine(Question(HARD)))
    assert "warn" not in verdict.sentence
    assert f"test_workers.py:{fall.__code__.co_firstlineno + 2} in fall: ctypes.string_at(0)" in verdict.sentence


def test_what_an_earlier_case_printed_is_not_the_reason(apart):
    calls = []

    def fall():
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        print("fatal error", file=sys.stderr, flush=True)

    examiner = apart(fall)
    assert examiner.examine(Question(HARD, others=False)).verdicts == ()
    assert only(examiner.examine(Question(HARD))).sentence == "The call ended its process: SIGKILL."


@pytest.mark.parametrize(
    ("printed", "is_signal", "said"),
    [
        ("x.py:3: UserWarning: an error\n  call(x)\n", False, ""),
        ("loading\nfree(): invalid pointer\nx.py:3: FutureWarning: old\n", True, "free(): invalid pointer"),
        ("loading\n", True, ""),
        ("giving up\n", False, "giving up"),
        (
            "boom error\nFatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n",
            True,
            "boom error",
        ),
    ],
)
def test_last_words(printed, is_signal, said):
    assert last_words(printed, is_signal) == said


def test_what_is_printed_is_never_overwritten_by_who_prints_after_a_reader():
    output = open_appending()
    for line in (b"one\n", b"two\n"):
        os.write(output.fileno(), line)
        output.seek(0)
    assert output.read() == b"one\ntwo\n"


def test_a_hang_is_reported_within_the_limit(apart):
    examiner = apart(lambda: time.sleep(60), seconds=0.5)
    examiner.examine(Question(EASY))
    began = time.monotonic()
    assert only(examiner.examine(Question(HARD))).kind == "timed_out"
    assert time.monotonic() - began < 5
    assert examiner.examine(Question(EASY)).verdicts == ()


def test_memory_past_the_limit_is_an_exception_of_the_call(apart):
    examiner = apart(lambda: torch.ones(1 << 33), share=0.05)
    assert only(examiner.examine(Question(HARD))).kind == "raised"
    assert examiner.examine(Question(EASY)).verdicts == ()


def test_a_worker_keeps_what_a_subject_remembers_and_a_fresh_one_does_not():
    calls = []

    def first_call_wrong(q, k, v):
        calls.append(1)
        return toys.right(q, k, v) + (len(calls) == 1)

    examiner = Apart(lambda: describe(first_call_wrong), "cpu")
    wrong = [bool(examiner.examine(Question(EASY)).verdicts) for _ in range(3)]
    assert (wrong, calls) == ([True, False, False], [])
    assert examiner.examine_fresh(Question(EASY)).verdicts
    examiner.close()


def test_a_refusal_comes_back_as_such():
    examiner = Apart(lambda: describe(toys.refuses_bf16), "cpu")
    assert "bf16" in examiner.examine(Question(EASY.replace(dtype="bf16"))).refused
    examiner.close()


def interrupt(*message):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("how", [Apart.examine, Apart.examine_fresh])
@pytest.mark.parametrize("where", ["pool.Worker._handle", "forkserver.ForkServer._receive_number"])
def test_after_ctrl_c_no_question_gets_the_answer_to_another(apart, monkeypatch, how, where):
    examiner = apart(lambda: os._exit(3) if "ForkServer" in where else time.sleep(1))
    examiner.examine(Question(EASY))
    monkeypatch.setattr(f"harness.workers.{where}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        how(examiner, Question.again(HARD, "same_call_twice"))
    monkeypatch.undo()
    assert examiner.examine(Question(EASY.replace(dtype="bf16"))).compared["O"].ok


def test_a_worker_is_stopped_once():
    """The fork server waits for a process once: asked a second time, it would end."""
    examiner = Apart(lambda: describe(toys.right), "cpu")
    server = examiner._pool._server
    for _ in range(2):
        examiner._worker.stop()
    assert examiner.examine(Question(EASY)).compared["O"].ok
    assert examiner._pool._server is server
    examiner.close()


def test_a_subject_that_cannot_be_loaded_is_reported_in_a_sentence():
    with pytest.raises(CannotRun, match="nowhere"):
        Apart(lambda: load("nowhere:attention"), "cpu")


def test_a_module_that_ends_its_process_is_reported_in_a_sentence():
    with pytest.raises(CannotRun, match="exit status 4"):
        Apart(lambda: os._exit(4), "cpu")


def test_a_fork_that_torch_runs_no_backward_in_is_no_failure():
    def forked_late(q, k, v):
        raise RuntimeError("See https://github.com/pytorch/pytorch/wiki/Autograd-and-Fork")

    subject = describe(forked_late)
    with closing(Apart(lambda: subject, "cpu")) as examiner, pytest.raises(CannotRun, match="command of its own"):
        examiner.examine(Question(EASY))
    with closing(Here(subject, "cpu")) as examiner:
        assert examiner.examine_fresh(Question(EASY)) is None
    with closing(Here(describe(toys.right), "cpu")) as examiner:
        assert examiner.examine_fresh(Question(EASY)).verdicts == ()


def test_a_crash_in_a_relations_call_is_blamed_on_the_relation():
    calls = []

    def second_call_ends(q, k, v):
        calls.append(1)
        return toys.right(q, k, v) if len(calls) == 1 else os.abort()

    examiner = Apart(lambda: describe(second_call_ends), "cpu")
    verdict = only(examiner.examine(Question.again(EASY, "same_call_twice")))
    assert (verdict.kind, verdict.check) == ("crashed", "same_call_twice")
    examiner.close()


def test_a_campaign_shrinks_a_crash():
    def crashes(q, k, v):
        if k.shape[2] > 40 and q.dtype != torch.float32:
            os.abort()
        return toys.right(q, k, v)

    examiner = Apart(lambda: describe(crashes), "cpu")
    done = Campaign(examiner.subject, "cpu", 0, seconds=None, cases=60, examiner=examiner).run()
    (found,) = done.findings.values()
    assert found.verdict.kind == "crashed"
    assert found.shrunk == AttentionCase(Geometry(Nk=41), dtype="fp16")
    assert done.tally.cases >= 60
