"""A failure is run again for its picture, and nothing that happens there ends the report."""

import pytest

from harness.report.again import Asked, pictures
from harness.report.larger import larger
from harness.subject.declaration import describe
from strategies import AttentionCase, Features, Geometry
from tests.harness import toys
from tests.harness.entries import FAULTY_TOY, TOY

CASE = AttentionCase(Geometry(Nq=1, Nk=4), features=Features(causal=True))
ENDS = "import os\ndef attention(q, k, v, causal=False):\n    os._exit(1)\n"
REMEMBERS = """
from toy import attention as right
calls = []

def attention(q, k, v, causal=False):
    calls.append(1)
    return right(q, k, v, causal and len(calls) == 1)
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "bad.py").write_text("print('hello')\n" + FAULTY_TOY)
    (tmp_path / "ends.py").write_text(ENDS)
    (tmp_path / "remembers.py").write_text(REMEMBERS)
    return tmp_path


def asked(subject, check="values", kind="wrong_values", **others):
    return Asked(f"{subject}.py:attention", "cpu", CASE, kind, check, **others)


def picture(subject, **others):
    (drawn,) = pictures([asked(subject, **others)])
    return drawn


def test_a_failure_is_drawn(capfd):
    drawn = picture("bad")
    assert (drawn.fails, drawn.sentence, drawn.map.over) == (True, "", [(0, 0)])
    assert "hello" not in capfd.readouterr().out


def test_what_passes_now_is_not_drawn():
    drawn = picture("toy")
    assert (drawn.fails, drawn.map, drawn.sentence) == (False, None, "Run again, it did not fail.")


@pytest.mark.parametrize(
    ("subject", "others", "sentence"),
    [
        ("missing", {}, "It cannot be run here. The subject's file missing.py does not exist."),
        ("bad", {"checksum": "0" * 64}, "other tensors"),
    ],
)
def test_what_cannot_be_run_says_why(subject, others, sentence):
    drawn = picture(subject, **others)
    assert (drawn.fails, drawn.map) == (None, None)
    assert sentence in drawn.sentence


def test_one_that_ends_its_process_leaves_the_next_alone():
    ended, crashed, drawn = pictures([asked("ends"), asked("ends", "survives", "crashed"), asked("bad")])
    assert (ended.fails, "failed otherwise: The call ended its process" in ended.sentence) == (True, True)
    assert (crashed.fails, crashed.sentence) == (True, "It is not about numbers, so there is nothing to draw.")
    assert drawn.map is not None


def test_no_failure_is_laid_on_the_one_before():
    assert [drawn.fails for drawn in pictures([asked("remembers"), asked("remembers")])] == [False, False]


def test_what_comes_and_goes_is_run_until_it_fails():
    drawn = picture("remembers", kind="not_repeatable")
    assert (drawn.fails, len(drawn.map.over)) == (True, 1)


def test_nothing_asked_starts_nothing(monkeypatch):
    monkeypatch.setattr("harness.report.again.Apart", None)
    assert pictures([]) == []


def test_a_larger_case_shows_the_pattern():
    drawn = picture("bad", made_larger=True)
    assert drawn.case.geometry == Geometry(Nq=96, Nk=96, d=32)
    assert len(drawn.map.over) > 100


def test_lengths_that_a_case_names_stay():
    case = AttentionCase(Geometry(Nk=5), features=Features(seqlens_k=(4,)))
    assert {each.geometry.Nk for each in larger(case, describe(toys.right))} == {5}


def test_no_larger_case_of_what_is_large():
    assert list(larger(AttentionCase(Geometry(Nq=96, Nk=96, d=32)), describe(toys.right))) == []
