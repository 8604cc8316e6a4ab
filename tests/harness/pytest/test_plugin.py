"""pytest collects saved failures, each as one test."""

import subprocess
import sys

import pytest

from harness.corpus import entries
from tests.harness.entries import FAULTY_TOY, TOY, entry_for


@pytest.fixture
def project(pytester):
    """A project with a right toy, a faulty one, and a saved failure of each."""
    pytester.makepyfile(toy=TOY, bad=FAULTY_TOY)
    for subject in ("toy.py:attention", "bad.py:attention"):
        entries.save(entry_for(subject), pytester.path / "regressions")
    return pytester


FIXED, FAILED = entry_for("toy.py:attention"), entry_for("bad.py:attention")
FAILED_FILE = f"regressions/bad.attention/{FAILED.id}.json"


@pytest.mark.parametrize("arguments", [[], ["regressions"], ["regressions/"], ["-n0", "regressions"]])
def test_each_file_is_a_test(project, arguments):
    project.runpytest(*arguments).assert_outcomes(passed=1, failed=1)


def test_one_file_reproduces_one_failure(project):
    project.runpytest(FAILED_FILE).assert_outcomes(failed=1)


def test_the_name_in_the_summary_can_be_run(project):
    project.runpytest("regressions").stdout.fnmatch_lines([f"FAILED {FAILED_FILE}::wrong_values - *"])
    project.runpytest(f"{FAILED_FILE}::wrong_values").assert_outcomes(failed=1)


def test_a_failure_tells_its_story_without_a_traceback(project):
    printed = project.runpytest("regressions").stdout
    printed.fnmatch_lines([f"*_ bad.py:attention::{FAILED.id} _*", "wrong_values as before: *", "*odd one out*"])
    printed.no_fnmatch_line("*Traceback*")
    printed.no_fnmatch_line("*harness/corpus/replay.py*")


def test_workers_share_the_files(project):
    project.runpytest_subprocess("-n", "2", "regressions").assert_outcomes(passed=1, failed=1)


def test_keywords_select_a_kind_or_a_subject(project):
    project.runpytest("-k", "wrong_values").assert_outcomes(passed=1, failed=1)
    project.runpytest("-k", "toy.attention").assert_outcomes(passed=1, deselected=1)
    project.runpytest("-k", "wrong_lse").assert_outcomes(deselected=2)


@pytest.mark.parametrize("content", ["", "{", '{"flashattest": 2}'])
def test_a_file_that_cannot_be_read_fails_alone(project, content):
    (project.path / FAILED_FILE).write_text(content)
    result = project.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"ERROR *{FAILED.id}.json is not a saved failure*"])


def test_a_subject_for_another_device_is_skipped(project):
    project.makepyfile(bad=TOY + "attention.__flashattest__ = {'devices': ()}")
    project.runpytest().assert_outcomes(passed=1, skipped=1)


def test_json_files_of_others_are_left_alone(project):
    (project.path / "regressions" / "package.json").write_text('{"name": "flashattest"}')
    (project.path / "data").mkdir()
    (project.path / "data" / "entry.json").write_text((project.path / FAILED_FILE).read_text())
    project.runpytest().assert_outcomes(passed=1, failed=1)
    project.runpytest("data").assert_outcomes()
    project.runpytest("data/entry.json").assert_outcomes(failed=1)


def test_an_empty_corpus_passes(pytester):
    pytester.mkdir("regressions")
    assert pytester.runpytest("regressions/").ret == pytest.ExitCode.OK
    pytester.mkdir("elsewhere")
    assert pytester.runpytest("elsewhere").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("harness.pytest.plugin", "{'torch', 'triton', 'numpy', 'hypothesis', 'jinja2'}"),
        ("harness.cli.main", "{'jinja2'}"),
    ],
)
def test_what_starts_imports_nothing_heavy(module, heavy):
    imports = f"import sys, {module}; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", imports], text=True) == "set()\n"


# --- Hypothesis profiles

ASKS = """
from hypothesis import settings

def test_profile():
    now = settings()
    print("PROFILE", now.max_examples, now.derandomize, now.database is not None, now.deadline)
"""
LOADS = "from harness import profiles; profiles.load()"


def profile(pytester, load, *arguments):
    """The settings that a test sees, in a process of its own."""
    pytester.makeconftest(load)
    pytester.makepyfile(test_it=ASKS)
    printed = pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider", *arguments, "test_it.py").outlines
    return next(line.partition("PROFILE ")[2] for line in printed if "PROFILE " in line)


@pytest.mark.parametrize("ci", [False, True])
def test_our_profile_wins_over_the_built_in_one_for_ci(pytester, monkeypatch, ci):
    monkeypatch.delenv("FLASHATTEST_PROFILE", raising=False)
    monkeypatch.setenv("CI", "true") if ci else monkeypatch.delenv("CI", raising=False)
    assert profile(pytester, LOADS) == "100 False True None"


def test_the_environment_chooses_a_profile(pytester, monkeypatch):
    monkeypatch.setenv("FLASHATTEST_PROFILE", "flashattest-ci")
    assert profile(pytester, LOADS) == "50 False True None"


@pytest.mark.parametrize("load", ["", LOADS])
def test_the_command_line_chooses_a_profile(pytester, load):
    assert profile(pytester, load, "--hypothesis-profile", "flashattest-long") == "5000 False True None"


def test_other_projects_keep_their_profile(pytester, monkeypatch):
    monkeypatch.setenv("CI", "true")
    assert profile(pytester, "") == "100 True False None"
