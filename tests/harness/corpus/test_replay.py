"""A saved failure run again: FIXED, FAILED or ERROR, and why."""

import dataclasses

import pytest

from harness.corpus import entries
from harness.corpus.entries import Worst
from harness.corpus.replay import RUNS_OF_UNSTEADY, replay
from harness.judging.verdict import Verdict
from tests.harness.entries import CAUSAL, FAULTY_TOY, TOY, entry_for

DECLARES = TOY + "attention.__flashattest__ = {'devices': ['cuda']}\n"
RAISES = "def attention(q, k, v, causal=False):\n    raise RuntimeError('no luck')\n"
REFUSES = "def attention(q, k, v, causal=False):\n    raise NotImplementedError('not today')\n"
FLICKERS = """
from toy import attention as right
calls = 0

def attention(q, k, v, causal=False):
    global calls
    calls += 1
    return right(q, k, v, causal and calls != {wrong_call})
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with a right toy and a faulty one, which is the current folder."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "bad.py").write_text(FAULTY_TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def replayed(project, entry, **how):
    return replay(entries.save(entry, project / "regressions"), device="cpu", **how)


def test_fixed(project):
    outcome = replayed(project, entry_for("toy.py:attention"))
    assert (outcome.status, outcome.verdicts) == ("FIXED", ())
    assert outcome.sentence == "wrong_values is no longer seen on cpu."


def test_failed_as_before(project):
    entry = entry_for("bad.py:attention")
    outcome = replayed(project, entry)
    assert outcome.status == "FAILED"
    assert outcome.sentence.startswith("wrong_values as before: O[0, 0, 0, 0] is ")
    assert outcome.line() == f"FAILED bad.py:attention {entry.id}  {outcome.sentence}"


def test_failed_in_another_way(project):
    (project / "raises.py").write_text(RAISES)
    outcome = replayed(project, entry_for("raises.py:attention"))
    assert outcome.status == "FAILED"
    was = "It was wrong_values and is now raised: The call raised RuntimeError: no luck (raises.py:"
    assert outcome.sentence.startswith(was)


def test_another_subject_may_take_the_case():
    entry = entry_for("bad.py:attention")
    assert replay(entry, "toy.py:attention", "cpu").status == "FIXED"
    assert replay(entry, None, "cpu").status == "FAILED"


def test_fixed_says_where_it_was_found_if_elsewhere(project):
    outcome = replayed(project, entry_for("toy.py:attention", device="cuda"))
    assert outcome.sentence == "wrong_values is no longer seen on cpu (it was found on cuda)."


def test_the_story_of_a_failure_is_that_of_now(project):
    worst = Worst(77.0, CAUSAL.replace(dtype="bf16"))
    entry = entry_for("bad.py:attention", worst=worst, versions={"torch": "2.0"})
    story = replayed(project, entry).story()
    for part in (repr(CAUSAL), "wanted", "odd one out", "worst    77 x", repr(worst.case), "on cpu with torch 2.0"):
        assert part in story


def test_the_story_of_a_fixed_failure_is_the_saved_one(project):
    story = replayed(project, entry_for("toy.py:attention")).story()
    assert story.startswith("As it was saved, on cpu:\nwrong_values (check values): It was wrong.")


def test_a_subject_is_imported_with_the_interpreter_on(project, monkeypatch):
    (project / "looks.py").write_text(f"import os\nassert os.environ['TRITON_INTERPRET'] == '1'\n{TOY}")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert replayed(project, entry_for("looks.py:attention")).status == "FIXED"


# --- failures that come and go


@pytest.mark.parametrize(("wrong_call", "status"), [(RUNS_OF_UNSTEADY, "FAILED"), (RUNS_OF_UNSTEADY + 1, "FIXED")])
def test_an_unsteady_failure_is_tried_many_times(project, wrong_call, status):
    (project / "flickers.py").write_text(FLICKERS.format(wrong_call=wrong_call))
    outcome = replayed(project, entry_for("flickers.py:attention", kind="not_repeatable"))
    assert outcome.status == status
    assert outcome.sentence.startswith(
        "not_repeatable as before" if status == "FAILED" else "not_repeatable is no longer"
    )


def test_a_steady_failure_is_tried_once(project, monkeypatch):
    monkeypatch.setattr("harness.corpus.replay.RELATIONS", {})
    (project / "flickers.py").write_text(FLICKERS.format(wrong_call=2))
    assert replayed(project, entry_for("flickers.py:attention")).status == "FIXED"


def test_a_replay_asks_every_relation(project):
    (project / "no_single.py").write_text(TOY.replace("q.dtype)", "q.dtype) * (k.shape[2] > 1)"))
    outcome = replayed(project, entry_for("no_single.py:attention"))
    assert outcome.status == "FAILED"
    assert "single_key" in [verdict.check for verdict in outcome.verdicts]


# --- errors


@pytest.mark.parametrize(
    ("subject", "source", "sentence"),
    [
        ("missing.py:attention", "", "missing.py does not exist."),
        ("toy.py:nothing", TOY, "toy.py has no function 'nothing'."),
        ("torn.py:attention", "def", "torn.py cannot be imported: SyntaxError"),
        ("refuses.py:attention", REFUSES, "The subject refuses the case now: NotImplementedError: not today."),
        ("declares.py:attention", DECLARES, "declares.py:attention runs on cuda, not on cpu."),
        ("plain.py:attention", TOY.replace("causal", "mask"), "The subject refuses the case now"),
    ],
)
def test_a_subject_that_cannot_be_run_is_an_error(project, subject, source, sentence):
    file = subject.partition(":")[0]
    if source:
        (project / file).write_text(source)
    outcome = replayed(project, entry_for(subject))
    assert outcome.status == "ERROR"
    assert sentence in outcome.sentence
    assert outcome.elsewhere == (file == "declares.py")


def test_a_file_that_cannot_be_read_is_an_error(project):
    (project / "torn.json").write_text("{")
    outcome = replay(project / "torn.json", device="cpu")
    assert (outcome.status, outcome.entry) == ("ERROR", None)
    assert outcome.line().startswith(f"ERROR  {project / 'torn.json'} is not a saved failure")
    assert outcome.story() == outcome.sentence


def test_other_tensors_than_those_saved_are_an_error(project):
    outcome = replayed(project, entry_for("bad.py:attention", checksum="0" * 64))
    assert outcome.status == "ERROR"
    assert outcome.sentence.startswith("The case makes other tensors here")


def test_a_case_that_breaks_the_harness_is_an_error(project, monkeypatch):
    def broken(tried, *asked):
        raise MemoryError("no room\nat all")

    monkeypatch.setattr("harness.judging.examine.judge", broken)
    outcome = replayed(project, entry_for("toy.py:attention"))
    assert (outcome.status, outcome.sentence) == ("ERROR", "The replay broke with MemoryError: no room")


def test_no_cuda_is_an_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    outcome = replay(entry_for("toy.py:attention"), device="cuda")
    assert (outcome.status, outcome.sentence) == ("ERROR", "There is no CUDA device here; run with --device cpu.")


# --- where a subject's file is looked for


def test_a_relative_file_counts_from_the_current_folder_first(project, tmp_path_factory, monkeypatch):
    path = entries.save(entry_for("toy.py:attention"), project / "regressions")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert replay(path, device="cpu").status == "FIXED"
    (elsewhere / "toy.py").write_text(FAULTY_TOY)
    assert replay(path, device="cpu").status == "FAILED"


def test_the_sentence_keeps_the_name_that_was_saved(project, tmp_path_factory, monkeypatch):
    path = entries.save(entry_for("bad.py:attention"), project / "regressions")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert "FAILED bad.py:attention " in replay(path, device="cpu").line()


def test_every_verdict_is_kept(project):
    writes = FAULTY_TOY.replace("    return", "    q.mul_(1)\n    q.add_(1)\n    return")
    (project / "writes.py").write_text(writes)
    kinds = {verdict.kind for verdict in replayed(project, entry_for("writes.py:attention")).verdicts}
    assert kinds == {"input_mutated", "wrong_values"}


def test_saved_verdict_may_hold_any_field():
    full = Verdict(
        "wrong_lse", "lse", "LSE is wrong.", 3.0, "LSE", (0, 0, 0), 1.0, 2.0, 1.0, 0.3, {"a": 1.0}, {"b": "c"}
    )
    entry = dataclasses.replace(entry_for("toy.py:attention"), verdict=full)
    assert "LSE[0, 0, 0]" in replay(entry, device="cpu").story()
