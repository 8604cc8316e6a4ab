"""The sanitizer runs the same command, without the option that asked for it."""

import sys

import pytest

from harness.cli.sanitizer import command
from harness.errors import CannotRun


@pytest.fixture
def installed(tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(tool)


@pytest.mark.parametrize("option", [["--sanitizer", "racecheck"], ["--sanitizer=racecheck"]])
def test_it_runs_the_same_command(installed, option):
    line = command("racecheck", ["fuzz", *option, "--time", "5"])
    assert line[:3] == [installed, "--tool", "racecheck"]
    assert line[-6:] == [sys.executable, "-m", "harness.cli", "fuzz", "--time", "5"]


def test_a_finding_of_its_own_is_a_failure(installed):
    line = command("memcheck", ["fuzz"])
    assert line[line.index("--error-exitcode") + 1] == "1"


def test_it_is_looked_for_in_cudas_folder_too(installed, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "compute-sanitizer").rename(tmp_path / "bin/compute-sanitizer")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert command("memcheck", ["fuzz"])[0] == str(tmp_path / "bin/compute-sanitizer")


def test_where_it_is_missing_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(CannotRun, match="CUDA toolkit"):
        command("memcheck", ["fuzz"])
