"""`flashattest corpus`: list, show, prune and mark, as a user meets them."""

import dataclasses
import json
import re

import pytest

from harness.cli.main import main
from harness.corpus import entries
from harness.corpus.entries import Worst
from harness.corpus.mark import Mark
from harness.corpus.replay import replay
from tests.harness.entries import CAUSAL, FAULTY_TOY, TOY, entry_for

FIXED, FAILED, LOST = (entry_for(f"{name}.py:attention") for name in ("toy", "bad", "lost"))
FAILED_FILE = f"regressions/bad.attention/{FAILED.id}.json"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A corpus of three failures: one fixed, one not, one whose subject is gone."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "bad.py").write_text(FAULTY_TOY)
    for entry in (FIXED, FAILED, LOST):
        entries.save(entry, tmp_path / "regressions")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    """The exit code and the printed lines of a `flashattest corpus` command."""
    code = main(["corpus", *arguments])
    return code, capsys.readouterr().out.splitlines()


def saved_ids(project):
    return {path.stem for path in entries.find(project / "regressions")}


# --- list and show


def test_list_is_one_line_an_entry(capsys):
    code, lines = run(capsys, "list")
    assert (code, len(lines)) == (0, 3)
    shape = "B=1 Hq=1 Hk=1 Nq=1 Nk=2 d=1"
    assert re.split("  +", lines[0]) == [FAILED.id, "bad.py:attention", "wrong_values", "values", "fp32", shape]


def test_list_shows_marks_and_takes_ids(capsys):
    run(capsys, "mark", FAILED.id, "--why", "issue 7")
    code, (line,) = run(capsys, "list", FAILED.id)
    assert (code, line.endswith("  known: issue 7")) == (0, True)


def test_list_of_nothing_is_nothing(capsys, tmp_path):
    assert run(capsys, "list", "--corpus", str(tmp_path / "none")) == (0, [])


def test_list_continues_after_a_file_that_cannot_be_read(capsys, project):
    (project / FAILED_FILE).write_text("{")
    assert main(["corpus", "list"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"flashattest: {FAILED_FILE} is not a saved failure: ")
    assert len(printed.out.splitlines()) == 2


def test_show_is_the_bug_report_with_its_commands(capsys, project):
    entry = dataclasses.replace(FAILED, worst=Worst(77.0, CAUSAL), versions={"torch": "2.0"}, mark=Mark("known"))
    (project / FAILED_FILE).write_text(json.dumps(entry.to_json()))
    code, lines = run(capsys, "show", FAILED.id[:6])
    assert (code, lines[0]) == (0, "wrong_values (check values): It was wrong.")
    for line in (
        "  subject  bad.py:attention",
        f"  case     {CAUSAL!r}",
        f"  worst    77 x the budget: {CAUSAL!r}",
        "  found    on cpu with torch 2.0",
        "  marked   known",
        f"  again    flashattest replay {FAILED_FILE}",
    ):
        assert line in lines


@pytest.mark.parametrize("action", ["show", "mark"])
@pytest.mark.parametrize(("selector", "sentence"), [("0" * 12, "neither a file nor"), ("regressions", "3 failures")])
def test_one_failure_must_be_named(capsys, action, selector, sentence):
    assert main(["corpus", action, selector]) == 2
    assert sentence in capsys.readouterr().err


# --- prune


def test_prune_removes_what_is_fixed_and_nothing_else(capsys, project):
    code, lines = run(capsys, "prune", "--device", "cpu")
    assert saved_ids(project) == {FAILED.id, LOST.id}
    assert code == 2  # one could not be run
    assert [line.split()[:2] for line in lines] == [["kept", "FAILED"], ["kept", "ERROR"], ["removed", "FIXED"]]


def test_a_dry_run_says_which_and_removes_none(capsys, project):
    _, lines = run(capsys, "prune", "--dry-run", "--device", "cpu")
    assert [line for line in lines if line.startswith("would go")] == [f"would go {replay(FIXED, device='cpu').line()}"]
    assert len(saved_ids(project)) == 3


def test_prune_keeps_what_was_found_on_another_device(capsys, project):
    path = project / "regressions" / "toy.attention" / f"{FIXED.id}.json"
    path.write_text(json.dumps(dataclasses.replace(FIXED, device="cuda").to_json()))
    code, (line,) = run(capsys, "prune", FIXED.id, "--device", "cpu")
    assert (code, line.startswith("kept     FIXED")) == (0, True)
    assert path.exists()


def test_prune_keeps_a_file_that_cannot_be_read(capsys, project):
    (project / FAILED_FILE).write_text('{"flashattest": 2}')
    assert run(capsys, "prune", FAILED_FILE)[0] == 2
    assert (project / FAILED_FILE).exists()


def test_a_file_that_cannot_be_removed_is_one_sentence(capsys, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.unlink", denied)
    assert main(["corpus", "prune", FIXED.id, "--device", "cpu"]) == 2
    assert capsys.readouterr().err.endswith("cannot be removed: Permission denied.\n")


# --- mark


def test_what_is_known_is_replayed_and_does_not_fail(capsys, project):
    assert main(["replay", FAILED.id, "--device", "cpu"]) == 1
    run(capsys, "mark", FAILED.id, "known", "--why", "upstream issue 7")
    assert main(["replay", FAILED.id, "--device", "cpu"]) == 0
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line.startswith(f"KNOWN  bad.py:attention {FAILED.id}  wrong_values as before: O[0, 0, 0, 0] is ")
    assert first_line.endswith(" It is marked known: upstream issue 7.")
    run(capsys, "mark", FAILED.id, "none")
    assert main(["replay", FAILED.id, "--device", "cpu"]) == 1


def test_what_is_known_and_passes_is_fixed(capsys, project):
    run(capsys, "mark", FIXED.id)
    assert main(["replay", FIXED.id, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"FIXED  toy.py:attention {FIXED.id}")


def test_another_failure_than_the_known_one_fails(capsys, project):
    (project / "bad.py").write_text("def attention(q, k, v, causal=False):\n    raise RuntimeError('no luck')\n")
    run(capsys, "mark", FAILED.id)
    assert main(["replay", FAILED.id, "--device", "cpu"]) == 1
    assert "and is now raised" in capsys.readouterr().out


def test_what_is_marked_fixed_and_fails_is_a_relapse(capsys, project):
    run(capsys, "mark", FAILED.id, "fixed", "--why", "commit abc")
    assert main(["replay", FAILED.id, "--device", "cpu"]) == 1
    assert "It is marked fixed: commit abc." in capsys.readouterr().out


def test_a_mark_changes_neither_id_nor_the_rest_of_the_file(capsys, project):
    before = (project / FAILED_FILE).read_bytes()
    run(capsys, "mark", FAILED.id)
    assert entries.load(project / FAILED_FILE).id == FAILED.id
    assert (
        entries.save(FAILED, project / "regressions").read_bytes() != before
    )  # a campaign leaves the mark where it is
    run(capsys, "mark", FAILED.id, "none")
    assert (project / FAILED_FILE).read_bytes() == before


def test_a_reason_is_one_printable_line(capsys):
    assert main(["corpus", "mark", FAILED.id, "--why", "a\nb"]) == 2
    assert capsys.readouterr().err == "flashattest: The reason of a mark must be at most 1000 printable characters.\n"


# --- the format of the file


def test_a_file_without_a_mark_is_as_it_always_was():
    assert "mark" not in FAILED.to_json()
    assert entries.Entry.from_json(FAILED.to_json()).mark is None


def test_an_older_version_refuses_a_marked_file_by_the_name_of_the_key(monkeypatch, project):
    entries.mark(project / FAILED_FILE, Mark("known"))
    older = {name: read for name, read in entries._ENTRY.items() if name != "mark"}
    monkeypatch.setattr(entries, "_ENTRY", older)
    with pytest.raises(entries.CorruptEntry, match=r"A saved failure has no field 'mark'\.$"):
        entries.load(project / FAILED_FILE)


@pytest.mark.parametrize(
    "mark", [{}, {"status": "odd"}, {"status": "known", "why": "\x1b"}, {"status": 1}, [], "known"]
)
def test_an_untrusted_mark_is_read_as_strictly_as_the_rest(project, mark):
    (project / FAILED_FILE).write_text(json.dumps(FAILED.to_json() | {"mark": mark}))
    with pytest.raises(entries.CorruptEntry):
        entries.load(project / FAILED_FILE)


# --- in pytest


def test_pytest_takes_what_is_known_for_a_strict_xfail(pytester, project):
    pytester.makepyfile(toy=TOY, bad=FAULTY_TOY)
    for entry in (FIXED, FAILED):
        entries.mark(entries.save(entry, pytester.path / "regressions"), Mark("known", "issue 7"))
    result = pytester.runpytest("-rx", "regressions")
    result.assert_outcomes(xfailed=1, failed=1)
    result.stdout.fnmatch_lines(["FIXED wrong_values is no longer seen on *`flashattest corpus mark * none` takes *"])
    result.stdout.fnmatch_lines(["XFAIL *wrong_values as before: *It is marked known: issue 7."])
    pytester.runpytest("--runxfail", "regressions").assert_outcomes(failed=2)
