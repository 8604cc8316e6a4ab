"""The README's chapter for a stranger, walked command by command in a repository that has a package `kernel` too."""

import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from harness.corpus.entries import find, load
from tests.documents import PAGES, README, ROOT, blocks, commands

CHAPTER = "Test your own kernel"
FAULTY = blocks(README, "python", CHAPTER)[0]
COMMANDS = commands(README, CHAPTER)
RIGHT = FAULTY.replace("tril(1)", "tril()")


@pytest.fixture
def repository(tmp_path):
    """A stranger's repository, with a package called `kernel`."""
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "mine.py").write_text(FAULTY)
    (tmp_path / "kernel" / "__init__.py").write_text("")
    bin = tmp_path / "bin"
    bin.mkdir()
    for command, module in (("flashattest", "harness.cli.main"), ("pytest", "pytest")):
        name = "main" if command == "flashattest" else "console_main"
        (bin / command).write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n")
        (bin / command).chmod(0o755)
    return tmp_path


def run(repository, command, **changed):
    """Run a command line as installed: our packages can be imported, and the current folder by itself cannot."""
    quick = re.sub(r"--time \d+", "--cases 60 --seed 1 --device cpu", command)
    paths = {"PATH": f"{repository / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | paths | changed
    return subprocess.run(shlex.split(quick), cwd=repository, env=environment, capture_output=True, text=True)


def test_the_chapter_holds_the_walk():
    assert RIGHT != FAULTY
    names = [" ".join(command.split()[:2]) for command in COMMANDS]
    fuzz, replay = "flashattest fuzz", "flashattest replay"
    assert names == [fuzz, replay, replay, "pytest regressions/", fuzz]


def test_every_install_of_a_checkout_is_pinned_within_our_ranges():
    installs = [line for page in PAGES for line in commands(page) if re.match(r"pip install .*'?\.", line)]
    assert installs
    assert all(" -c constraints.txt " in line for line in installs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(r) for r in sum(project["optional-dependencies"].values(), project["dependencies"])]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert [r for r in ranges if r.name in pinned and pinned[r.name] not in r.specifier] == []
    assert {r.name for r in ranges} - set(pinned) == {"flashattest", "ray"}


def test_from_install_to_verdict(repository):
    fuzz, replay, replay_again, test, fuzz_again = COMMANDS

    found = run(repository, fuzz)
    assert (found.returncode, found.stderr) == (1, "")
    (saved,) = find(repository / "regressions")
    assert load(saved).case.features.causal is True
    failed = run(repository, replay)
    assert (failed.returncode, failed.stdout.split()[0]) == (1, "FAILED")
    assert run(repository, test).returncode == 1

    (repository / "kernel" / "mine.py").write_text(RIGHT)
    fixed = run(repository, replay_again)
    assert (fixed.returncode, fixed.stdout.split()[0]) == (0, "FIXED")
    tested = run(repository, test)
    assert (tested.returncode, "1 passed" in tested.stdout) == (0, True)
    clean = run(repository, fuzz_again)
    assert (clean.returncode, "\n0 failures" in clean.stdout) == (0, True)


def test_the_subject_as_a_module_is_theirs_too(repository):
    (repository / "kernel" / "__init__.py").unlink()  # a folder that is no package, too
    fuzz = COMMANDS[0].replace("kernel/mine.py", "kernel.mine")
    assert fuzz != COMMANDS[0]
    assert run(repository, fuzz).returncode == 1
    assert run(repository, "flashattest replay").returncode == 1
    assert run(repository, "pytest regressions/").returncode == 1
    (repository / "kernel" / "mine.py").write_text(RIGHT)
    assert run(repository, "flashattest replay").returncode == 0
    assert run(repository, "pytest regressions/").returncode == 0


def test_the_property_test_finds_the_fault_and_passes_without_it(repository):
    (example,) = blocks(README, "python", "Use it in pytest and in CI")
    quick = example.replace("causal=True", "causal=True, max_length=9")
    (repository / "test_mine.py").write_text(f"from kernel.mine import attention as my_attention\n{quick}")
    run_it = "pytest -q test_mine.py"
    found = run(repository, run_it, FLASHATTEST_PROFILE="flashattest-ci")
    assert (found.returncode, "WrongValues" in found.stdout) == (1, True)
    (repository / "kernel" / "mine.py").write_text(RIGHT)
    assert run(repository, run_it, FLASHATTEST_PROFILE="flashattest-ci").returncode == 0


def test_the_default_subject_is_ours_in_their_repository_too(repository):
    found = run(repository, "flashattest fuzz --cases 10 --seed 1 --device cpu")
    assert found.stdout.count("kernel:flash_attention on cpu: 10 cases") == 1
    assert found.returncode == 0
