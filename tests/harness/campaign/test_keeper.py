"""A campaign's failures are in the corpus from the moment they are met, and a corpus that cannot be written is said."""

import errno
import os
import resource
from pathlib import Path

import pytest

from harness.campaign.campaign import Finding
from harness.campaign.keeper import Corpus
from harness.cli.main import main
from harness.corpus import entries
from harness.judging.verdict import Verdict
from strategies import AttentionCase, Geometry
from tests.harness.processes import SUBJECTS, Running

FAULT = ("wrong_values", "values")
VERDICT = Verdict(*FAULT, "It was wrong.")
DRAWN, SHRUNK = AttentionCase(Geometry(Nk=40)), AttentionCase(Geometry(Nk=2))
FINDING = Finding(VERDICT, SHRUNK, DRAWN, DRAWN, 5.0, 3, 0.1)


@pytest.fixture
def kept(tmp_path):
    return Corpus(tmp_path, "some", "cpu")


def cases(folder):
    return [entries.load(path).case for path in folder.rglob("*.json")]


def test_a_failure_stands_as_drawn_until_it_is_shrunk(tmp_path, kept):
    kept.met(FAULT, DRAWN, VERDICT)
    assert cases(tmp_path) == [DRAWN]
    kept.settled(FAULT, FINDING)
    assert cases(tmp_path) == [SHRUNK]


def test_what_another_finding_tells_of_goes(tmp_path, kept):
    kept.met(FAULT, DRAWN, VERDICT)
    kept.settled(FAULT, None)
    assert cases(tmp_path) == []


def test_what_was_there_before_stays(tmp_path, kept):
    entries.save(entries.entry(DRAWN, VERDICT, "some", "cpu"), tmp_path)
    kept.met(FAULT, DRAWN, VERDICT)
    kept.settled(FAULT, FINDING)
    assert set(cases(tmp_path)) == {DRAWN, SHRUNK}


def test_a_case_that_is_drawn_as_small_as_can_be_stays(tmp_path, kept):
    kept.met(FAULT, SHRUNK, VERDICT)
    kept.settled(FAULT, FINDING)
    assert cases(tmp_path) == [SHRUNK]


def test_a_finding_of_another_process_is_located_and_one_that_is_gone_is_saved_again(tmp_path, kept):
    (path,) = kept.located({FAULT: FINDING}).values()
    path.unlink()
    assert kept.located({FAULT: FINDING}) == {FAULT: path}
    assert path.exists()


def full(*ignored):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_once_and_the_drawn_case_stays_where_the_shrunk_one_finds_no_room(
    tmp_path, kept, monkeypatch
):
    kept.met(FAULT, DRAWN, VERDICT)
    monkeypatch.setattr(entries, "write_whole", full)
    kept.settled(FAULT, FINDING)
    assert kept.located({FAULT: FINDING}) == {}
    assert cases(tmp_path) == [DRAWN]
    (problem,) = kept.problems
    assert "No space left on device" in problem


def test_a_corpus_that_turns_read_only_costs_nothing_else(tmp_path, kept, monkeypatch):
    def refused(path, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    kept.met(FAULT, DRAWN, VERDICT)
    monkeypatch.setattr(Path, "unlink", refused)
    kept.settled(FAULT, None)
    assert cases(tmp_path) == [DRAWN]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 1.0)
    Path("some.py").write_text(SUBJECTS)


FAULTY = ("fuzz", "--subject", "some.py:faulty", "--device", "cpu", "--cases", "40")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_campaign_goes_on_without_its_corpus_and_says_so(capsys, jobs):
    Path("file").touch()
    assert main([*FAULTY, "--corpus", "file/corpus", "--jobs", jobs]) == 1
    printed = capsys.readouterr()
    assert "1 failure" in printed.out
    assert "saved" not in printed.out
    assert "cannot be saved as file/corpus" in printed.err


def no_file_can_grow():
    """As on a full disk; what is printed goes where there is always room."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for printed in (1, 2):
        os.dup2(nowhere, printed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("elsewhere")
def test_a_campaign_goes_on_where_no_file_can_be_written():
    assert Running(*FAULTY, first=no_file_can_grow).wait() == 1
    assert entries.find(Path("regressions")) == []
