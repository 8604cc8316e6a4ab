"""A campaign's failures are in the corpus from the moment they are met; a corpus that cannot be written is reported."""

import errno
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from harness.campaign.finding import Finding
from harness.campaign.keeper import CorpusKeeper
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
def keeper(tmp_path):
    return CorpusKeeper(tmp_path, "some", "cpu")


def cases(folder):
    return [entries.load(path).case for path in folder.rglob("*.json")]


def test_a_failure_is_saved_as_drawn_until_it_is_shrunk(tmp_path, keeper):
    keeper.save_met(FAULT, DRAWN, VERDICT)
    assert cases(tmp_path) == [DRAWN]
    keeper.save_settled(FAULT, FINDING)
    assert cases(tmp_path) == [SHRUNK]


def test_what_another_finding_reports_is_removed(tmp_path, keeper):
    keeper.save_met(FAULT, DRAWN, VERDICT)
    keeper.save_settled(FAULT, None)
    assert cases(tmp_path) == []


def test_what_was_there_before_stays(tmp_path, keeper):
    entries.save(entries.make_entry(DRAWN, VERDICT, "some", "cpu"), tmp_path)
    keeper.save_met(FAULT, DRAWN, VERDICT)
    keeper.save_settled(FAULT, FINDING)
    assert set(cases(tmp_path)) == {DRAWN, SHRUNK}


def test_a_case_that_is_drawn_as_small_as_can_be_stays(tmp_path, keeper):
    keeper.save_met(FAULT, SHRUNK, VERDICT)
    keeper.save_settled(FAULT, FINDING)
    assert cases(tmp_path) == [SHRUNK]


def test_a_settled_finding_is_saved_once(keeper, monkeypatch):
    path = keeper.save_settled(FAULT, FINDING)
    monkeypatch.setattr(entries, "write_whole", full)
    findings = {FAULT: replace(FINDING, file=path)}
    keeper.save_missing(findings)
    assert findings[FAULT].file == path
    assert keeper.problems == []


@pytest.mark.parametrize("file", [None, Path("gone.json")])
def test_a_finding_without_a_file_is_saved_at_the_end(tmp_path, keeper, file):
    findings = {FAULT: replace(FINDING, file=file)}
    keeper.save_missing(findings)
    assert findings[FAULT].file.is_relative_to(tmp_path)
    assert cases(tmp_path) == [SHRUNK]


def full(*ignored):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_reported_once_and_the_drawn_case_stays_where_the_shrunk_one_finds_no_room(
    tmp_path, keeper, monkeypatch
):
    keeper.save_met(FAULT, DRAWN, VERDICT)
    monkeypatch.setattr(entries, "write_whole", full)
    assert keeper.save_settled(FAULT, FINDING) is None
    findings = {FAULT: FINDING}
    keeper.save_missing(findings)
    assert findings == {FAULT: FINDING}
    assert cases(tmp_path) == [DRAWN]
    (problem,) = keeper.problems
    assert "No space left on device" in problem


def test_a_corpus_that_turns_read_only_costs_nothing_else(tmp_path, keeper, monkeypatch):
    def refused(path, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    keeper.save_met(FAULT, DRAWN, VERDICT)
    monkeypatch.setattr(Path, "unlink", refused)
    keeper.save_settled(FAULT, None)
    assert cases(tmp_path) == [DRAWN]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 1.0)
    Path("some.py").write_text(SUBJECTS)


FAULTY = ("fuzz", "--subject", "some.py:faulty", "--device", "cpu", "--cases", "40")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_campaign_continues_without_its_corpus_and_reports_it(capsys, jobs):
    Path("file").touch()
    assert main([*FAULTY, "--corpus", "file/corpus", "--jobs", jobs]) == 1
    printed = capsys.readouterr()
    assert "1 failure" in printed.out
    assert "saved" not in printed.out
    assert "cannot be saved as file/corpus" in printed.err


def no_file_can_grow():
    """Make every file write fail, as on a full disk; prints go to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for printed in (1, 2):
        os.dup2(nowhere, printed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.usefixtures("elsewhere")
def test_a_campaign_continues_where_no_file_can_be_written():
    assert Running(*FAULTY, first=no_file_can_grow).wait() == 1
    assert entries.find(Path("regressions")) == []
