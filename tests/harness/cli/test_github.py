"""In a GitHub workflow failures become annotations and a summary; anywhere else nothing is printed."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import github
from harness.cli.main import main
from harness.corpus import entries
from harness.corpus.mark import Mark
from harness.judging.verdict import Verdict
from tests.documents import ROOT, blocks
from tests.harness.entries import FAULTY_TOY, TOY, entry_for

ACTION = ROOT / "action.yml"


@pytest.fixture(autouse=True)
def workflow(tmp_path, monkeypatch):
    """A checkout with a right toy and a faulty one, as a step of a workflow sees it."""
    for name, toy in (("toy.py", TOY), ("bad.py", FAULTY_TOY)):
        (tmp_path / name).write_text(toy.replace("is_causal=", "enable_gqa=True, is_causal="))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path


def fuzz(subject):
    return main(["fuzz", "--subject", subject, "--cases", "60", "--seed", "1", "--device", "cpu"])


def commands(capsys):
    """The workflow commands among the printed lines."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]


def test_a_failure_annotates_the_subjects_file(capsys, workflow):
    assert fuzz("bad.py:attention") == 1
    (line,) = commands(capsys)
    (saved,) = entries.find(Path("regressions"))
    assert line.startswith(
        "::error file=bad.py,title=bad.py%3Aattention%3A wrong_values::wrong_values (check values): O["
    )
    assert "%0AAttentionCase(" in line
    assert line.endswith(f"%0Aflashattest replay {saved}")


def test_a_failure_is_in_the_summary(capsys, workflow):
    fuzz("bad.py:attention")
    title, _, columns, _, row, *_ = (workflow / "summary.md").read_text().splitlines()
    assert re.fullmatch(
        r"### ❌ Fuzzed `bad.py:attention` on cpu: 6\d cases in \d+ s, \d+ refused, 1 failed, seed 1", title
    )
    assert columns == "| kind | check | smallest case | saved |"
    assert row.startswith("| `wrong_values` | `values` | `AttentionCase(")


def test_a_right_subject_has_a_summary_alone(capsys, workflow):
    assert fuzz("toy.py:attention") == 0
    assert commands(capsys) == []
    assert (workflow / "summary.md").read_text().startswith("### ✅ Fuzzed `toy.py:attention` on cpu: 60 cases")


def test_replays_are_annotated_by_their_status(capsys, workflow):
    known = dataclasses.replace(entry_for("bad.py:attention", worst=None), mark=Mark("known"))
    for entry in (entry_for("toy.py:attention"), known, entry_for("lost.py:attention")):
        entries.save(entry, workflow / "regressions")
    assert main(["replay", "--device", "cpu"]) == 2
    warning, error = commands(capsys)
    assert warning.startswith("::warning file=bad.py,title=KNOWN bad.py%3Aattention::wrong_values as before")
    assert error.startswith("::error file=regressions/lost.attention/")
    summary = (workflow / "summary.md").read_text()
    assert summary.startswith("### ❌ Replayed 3 saved failures, 1 of them not fixed\n")
    assert [line.split("`")[1] for line in summary.splitlines() if line.startswith("| `")] == [
        "KNOWN",
        "ERROR",
        "FIXED",
    ]


def test_summaries_are_appended(workflow):
    (workflow / "summary.md").write_text("before\n")
    assert main(["replay", "--device", "cpu"]) == 0
    assert (
        workflow / "summary.md"
    ).read_text() == "before\n### ✅ Replayed 0 saved failures, 0 of them not fixed\n\n\n\n"


@pytest.mark.parametrize("value", [None, "false", ""])
def test_elsewhere_nothing_is_printed(capsys, workflow, monkeypatch, value):
    monkeypatch.delenv("GITHUB_ACTIONS") if value is None else monkeypatch.setenv("GITHUB_ACTIONS", value)
    entries.save(entry_for("bad.py:attention"), workflow / "regressions")
    assert main(["replay", "--device", "cpu"]) == 1
    assert commands(capsys) == []
    assert not (workflow / "summary.md").exists()


def test_a_summary_that_cannot_be_written_fails_nothing(capsys, workflow, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(workflow / "missing" / "summary.md"))
    assert main(["replay", "--device", "cpu"]) == 0
    assert "The step's summary cannot be written: No such file" in capsys.readouterr().err
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert main(["replay", "--device", "cpu"]) == 0


def test_untrusted_text_writes_no_command_and_no_markdown(capsys, workflow):
    sentence = "100% | `a`\n::stop-commands::x\r\x1b[2J"
    (workflow / "a,b.py").write_text(TOY)
    entry = entry_for("a,b.py:attention", checksum="0" * 64)
    github._annotate("error", Path("a,b:c%.py"), "x::y\n", sentence)
    (line,) = commands(capsys)
    assert line.startswith(
        "::error file=a%2Cb%3Ac%25.py,title=x%3A%3Ay\\n::100%25 | `a`%0A::stop-commands::x\\r\\x1b[2J"
    )
    assert github._code(sentence) == "`100% \\| 'a'\\n::stop-commands::x\\r\\x1b[2J`"
    assert Verdict("raised", "returns", sentence).sentence == sentence
    entries.save(entry, workflow / "regressions")
    main(["replay", "--device", "cpu"])
    assert commands(capsys)[0].startswith(
        "::error file=a%2Cb.py,title=ERROR a%2Cb.py%3Aattention::The case makes other"
    )


# --- the action


def steps():
    """The shell lines of the action's steps, by name."""
    named = re.findall(r"- name: (\w+)\n(?:.*\n)*?\s+run: (?:>-\n)?((?:.+\n)+)", ACTION.read_text())
    return {name: " ".join(lines.split()) for name, lines in named}


def run_step(name, **inputs):
    """Run a step of the action as a runner does, with `flashattest` the one that is tested."""
    Path("flashattest").write_text(f'#!/bin/sh\nexec {sys.executable} -m harness.cli "$@"\n')
    Path("flashattest").chmod(0o755)
    path = {"PATH": f"{Path.cwd()}:{os.environ['PATH']}", "PYTHONPATH": str(ACTION.parent)}
    command = ["bash", "-eo", "pipefail", "-c", steps()[name]]
    return subprocess.run(command, env=os.environ | path | inputs, capture_output=True, text=True)


def test_the_action_fuzzes_and_replays(workflow):
    assert list(steps()) == ["Install", "Replay", "Fuzz"]
    inputs = {"SUBJECT": "bad.py:attention", "CORPUS": "saved here", "DEVICE": "cpu", "MINUTES": "0.05"}
    assert run_step("Replay", **inputs).returncode == 0
    fuzzed = run_step("Fuzz", **inputs)
    assert (fuzzed.returncode, "::error file=bad.py" in fuzzed.stdout) == (1, True)
    assert run_step("Replay", **inputs).returncode == 1
    (workflow / "bad.py").write_text((workflow / "toy.py").read_text())
    assert run_step("Replay", **(inputs | {"DEVICE": ""})).returncode == 0


@pytest.mark.parametrize("page", ["README.md", "docs/guide/ci.md"])
def test_a_documented_step_gives_what_the_action_takes(page):
    (step,) = blocks(ROOT / page, "yaml")
    inputs = ACTION.read_text().partition("\ninputs:\n")[2].partition("\nruns:")[0]
    given, taken = re.findall(r"^    (\w+):", step, re.MULTILINE), re.findall(r"^  (\w+):", inputs, re.MULTILINE)
    assert "subject" in given
    assert set(given) <= set(taken)


def test_the_action_installs_as_its_input_says():
    assert run_step("Install", INSTALL="echo one && echo 'two words'").stdout == "one\ntwo words\n"
