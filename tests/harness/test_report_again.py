"""A failure is run again for its picture, and nothing that happens there ends the report."""

import pytest

from harness.report import again
from harness.report.again import Question, look_again, pictures
from harness.report.larger import larger
from harness.subject import describe
from strategies import AttentionCase, Features, Geometry

from . import toys
from .entries import FAULTY_TOY, TOY

CASE = AttentionCase(Geometry(Nq=1, Nk=4), features=Features(causal=True))
ENDS = "import os, time\ndef attention(q, k, v, causal=False):\n    {}\n"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "bad.py").write_text("print('hello')\n" + FAULTY_TOY)
    (tmp_path / "ends.py").write_text(ENDS.format("os._exit(1)"))
    (tmp_path / "hangs.py").write_text(ENDS.format("time.sleep(100)"))
    return tmp_path


def asked(subject, check="values", kind="wrong_values", **others):
    return Question(f"{subject}.py:attention", "cpu", CASE, kind, check, **others)


def test_a_failure_is_drawn():
    drawn = look_again(asked("bad"))
    assert (drawn.fails, drawn.sentence, drawn.map.over) == (True, "", [(0, 0)])


def test_what_is_mended_is_not():
    drawn = look_again(asked("toy"))
    assert (drawn.fails, drawn.map, drawn.sentence) == (False, None, "Run again, it did not fail.")


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (asked("missing"), "It cannot be run here. The subject's file missing.py does not exist."),
        (asked("bad", checksum="0" * 64), "other tensors"),
    ],
)
def test_what_cannot_be_run_says_why(question, sentence):
    drawn = look_again(question)
    assert (drawn.fails, drawn.map) == (None, None)
    assert sentence in drawn.sentence


def test_one_that_ends_its_process_leaves_the_next_alone():
    ended, drawn = pictures([asked("ends"), asked("bad")])
    assert "ended the process" in ended.sentence
    assert drawn.map is not None


def test_one_that_hangs_is_given_up_and_after_some_the_rest(monkeypatch):
    monkeypatch.setattr(again, "SECONDS", 0.2)
    monkeypatch.setattr(again, "MOST_LOST", 1)
    first, second = pictures([asked("hangs"), asked("bad")])
    assert "took more than" in first.sentence
    assert "not run again" in second.sentence


def test_nothing_asked_starts_nothing(monkeypatch):
    monkeypatch.setattr(again, "_Worker", None)
    assert pictures([]) == []


def test_a_larger_case_shows_the_pattern():
    drawn = look_again(asked("bad", made_larger=True))
    assert drawn.case.geometry == Geometry(Nq=96, Nk=96, d=32)
    assert len(drawn.map.over) > 100


def test_lengths_that_a_case_names_stay():
    case = AttentionCase(Geometry(Nk=5), features=Features(seqlens_k=(4,)))
    assert {each.geometry.Nk for each in larger(case, describe(toys.right))} == {5}


def test_no_larger_case_of_what_is_large():
    assert list(larger(AttentionCase(Geometry(Nq=96, Nk=96, d=32)), describe(toys.right))) == []
