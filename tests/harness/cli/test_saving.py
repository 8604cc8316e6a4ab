"""A finding that cannot be saved is reported all the same, and what can be replayed is."""

import json

import pytest

from harness.cli.main import main
from harness.corpus import entries
from harness.judging.story import printable
from tests.harness.entries import FAULTY_TOY, TOY, entry_for


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY.replace("is_causal=causal", "is_causal=causal, enable_gqa=True"))
    (tmp_path / "bad.py").write_text(FAULTY_TOY.replace("is_causal=False", "is_causal=False, enable_gqa=True"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fuzz(*more):
    return main(["fuzz", "--subject", "bad.py:attention", "--cases", "60", "--seed", "1", "--device", "cpu", *more])


def test_a_finding_that_cannot_be_saved_is_still_reported(capsys, project):
    (project / "regressions").write_text("in the way")
    assert fuzz("--json", "out.json") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("flashattest: The failure cannot be saved as regressions/bad.attention/")
    assert printed.err.count("\n") == 1
    assert "  case     AttentionCase(" in printed.out
    assert "1 failure" in printed.out
    (failure,) = json.loads((project / "out.json").read_text())["failures"]
    assert (failure["id"], failure["corpus_file"]) == (None, None)


@pytest.mark.parametrize(("options", "sentence"), [("size=4k", "No space left"), ("ro", "Read-only file system")])
def test_a_real_disk_that_takes_no_file_loses_no_finding(capsys, disk, options, sentence):
    assert fuzz("--corpus", str(disk(options))) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "AttentionCase(" in printed.out


def test_a_finding_that_can_be_saved_is_saved_in_silence(capsys, project):
    assert fuzz() == 1
    assert capsys.readouterr().err == ""
    assert len(entries.find(project / "regressions")) == 1


def test_an_outcome_that_cannot_be_written_is_one_sentence(capsys):
    assert fuzz("--json", "missing/out.json") == 1
    printed = capsys.readouterr()
    assert printed.err == "flashattest: The outcome cannot be written to missing/out.json: No such file or directory.\n"
    assert "1 failure" in printed.out


@pytest.mark.parametrize("content", ["{", '{"flashattest": 2}', "[" * 100_000])
def test_one_bad_file_keeps_no_other_from_being_replayed(capsys, project, content):
    saved = entries.save(entry_for("bad.py:attention"), project / "regressions")
    bad_file = project / "regressions" / "bad.attention" / "000000000000.json"
    bad_file.write_text(content)
    assert main(["replay", "--device", "cpu"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"ERROR  {bad_file.relative_to(project)} ")
    assert second.startswith(f"FAILED bad.py:attention {saved.stem}")
    saved.unlink()
    assert main(["replay", "--device", "cpu"]) == 2


def test_what_a_terminal_would_obey_is_spelled_out(capsys, project):
    entry = entry_for("toy.py:attention", versions={"torch\x1b[2J": "1\n::error::"})
    entries.save(entry, project / "regressions")
    assert main(["replay", entry.id, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "torch\\x1b[2J 1\\n::error::" in printed


def test_plain_text_is_left_alone():
    assert printable("O[0] is 1.5, ≤ 2 · né") == "O[0] is 1.5, ≤ 2 · né"
    assert printable("a\u202eb\ud800") == "a\\u202eb\\ud800"
