"""Parallel campaigns report as one, and lose nothing when one of them, or all of them, are killed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from harness.campaign.finding import Finding
from harness.campaign.parallel.jobs import Jobs, State
from harness.campaign.tally import Tally
from harness.corpus import entries
from harness.errors import CannotRun, HarnessError
from harness.judging.verdict import Verdict
from harness.subject.declaration import describe
from strategies import AttentionCase
from tests.harness import toys
from tests.harness.processes import SUBJECTS, Running, is_alive, jobs_of, notes, printed, until


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.campaign.campaign.SHRINK_SECONDS", 2.0)
    Path("some.py").write_text(SUBJECTS)


def fuzz(subject, *more):
    return Running("fuzz", "--subject", f"some.py:{subject}", "--device", "cpu", "--json", "out.json", *more)


def outcome():
    return json.loads(Path("out.json").read_text())


def saved():
    return list(Path("regressions").rglob("*.json"))


def all_end(pids):
    return until(lambda: not any(is_alive(pid) for pid in pids), 10)


# --- what several jobs report as one


def test_all_cases_are_run_and_counted_once():
    assert fuzz("right", "--jobs", "2", "--cases", "41").wait() == 0
    assert outcome()["cases"] == 41
    assert notes() == saved() == []


def test_findings_are_reported_once():
    assert fuzz("faulty", "--jobs", "2", "--cases", "60").wait() == 1
    (failure,) = outcome()["failures"]
    assert Path(failure["corpus_file"]) in saved()
    assert printed().count("wrong_values (check values)") == 1


def test_a_killed_job_is_replaced_and_what_it_met_is_kept():
    campaign = fuzz("faulty", "--jobs", "2", "--cases", "60")
    assert until(saved)
    first = jobs_of(campaign.pid)
    os.kill(first[0], signal.SIGKILL)
    assert until(lambda: len(set(jobs_of(campaign.pid)) - set(first)) == 1)
    assert campaign.wait() == 1
    assert outcome()["cases"] >= 60
    assert len(outcome()["failures"]) == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_the_campaign_and_loses_nothing(jobs):
    campaign = fuzz("faulty", "--jobs", jobs, "--time", "100")
    assert until(saved)
    below = campaign.kill(signal.SIGINT)
    assert campaign.wait() == 1
    assert len(outcome()["failures"]) == 1
    assert all_end(below)
    assert notes() == []


def test_ctrl_c_in_a_terminal_reaches_all_processes():
    campaign = fuzz("right", "--jobs", "2", "--time", "100")
    assert until(notes)
    os.killpg(campaign.pid, signal.SIGINT)
    assert campaign.wait() == 0
    assert "0 failures" in printed()


def test_a_second_ctrl_c_ends_it_at_once():
    campaign = fuzz("hangs", "--jobs", "2", "--time", "100")
    assert until(notes)
    below = campaign.kill(signal.SIGINT)
    time.sleep(0.7)
    campaign.kill(signal.SIGINT)
    began = time.monotonic()
    assert campaign.wait() == 0
    assert time.monotonic() - began < 10
    assert all_end(below)


# --- kill -9 of the whole campaign


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_nothing_is_left_running_and_nothing_torn(jobs):
    for wait in (lambda: time.sleep(0.1), lambda: time.sleep(0.9), lambda: until(saved)):
        campaign = fuzz("faulty", "--jobs", jobs, "--time", "100")
        assert until(notes)
        wait()
        below = campaign.kill()
        assert campaign.wait() == -signal.SIGKILL
        assert all_end(below)
    assert saved()
    assert [entries.load(path).kind for path in saved()] == ["wrong_values"] * len(saved())


def test_a_worker_that_hangs_ends_with_its_campaign():
    campaign = fuzz("hangs", "--jobs", "2", "--time", "100")
    assert until(lambda: len(notes()) == 2)
    below = campaign.kill()
    assert campaign.wait() == -signal.SIGKILL
    assert len(below) >= 6
    assert all_end(below)


def test_the_next_campaign_begins_with_the_case_that_was_running():
    campaign = fuzz("hangs", "--time", "100")
    assert until(notes)
    (running,) = notes()
    campaign.kill()
    campaign.wait()
    Path("some.py").write_text(SUBJECTS.replace("        pass", "        return right(q, k, v).fill_(7)"))
    fuzz("hangs", "--cases", "1").wait()
    assert [failure["case"] for failure in outcome()["failures"]] == [running]
    assert notes() == []


def test_the_next_campaign_continues_from_what_was_shrunk():
    # Not a fault that the opening finds, which keeps no examples.
    campaign = fuzz("deep", "--time", "100")
    assert until(lambda: saved() and Path(".flashattest/campaigns").exists(), 60)
    time.sleep(1)
    campaign.kill()
    campaign.wait()
    for note in Path(".flashattest/running").iterdir():
        note.unlink()
    assert fuzz("deep", "--cases", "1").wait() == 1
    assert outcome()["failures"][0]["cases_to_first"] <= 1


# --- what is done about jobs that end, by a backend that replays messages


def ran(cases, **more):
    return State(Tally(cases=cases), **more)


def finding(kind="wrong_values", check="values"):
    case = AttentionCase()
    return {(kind, check): Finding(Verdict(kind, check, "It was wrong."), case, case, case, 2.0, 1, 0.1)}


class Scripted:
    """A backend: each part that is started sends the messages of the next script."""

    def __init__(self, *scripts):
        self.scripts, self.started, self.running, self.stopped = list(scripts), [], [], 0

    def start(self, part):
        self.started.append(part)
        script = [*self.scripts.pop(0)]
        self.running.append(script)
        return script

    def receive(self, seconds):
        for script in [script for script in self.running if script]:
            yield script, script.pop(0)

    def stop(self, handle):
        self.stopped += 1

    def kill(self, handle):
        self.running = [script for script in self.running if script is not handle]


def jobs(backend, jobs=1, cases=10, seconds=60.0):
    return Jobs(describe(toys.right), "cpu", 0, seconds, cases, jobs, backend)


def test_a_replacement_has_what_is_left_to_do_and_a_seed_of_its_own():
    backend = Scripted([("state", ran(7)), None], [("over", ran(3))])
    assert jobs(backend).run().tally.cases == 10
    first, second = backend.started
    assert (first.cases, second.cases, first.number, second.number) == (10, 3, 0, 0)
    assert second.seconds < first.seconds
    assert second.seed != first.seed


def test_cases_are_shared_out_to_the_last_one():
    backend = Scripted([("over", ran(2))], [("over", ran(1))])
    jobs(backend, jobs=2, cases=3).run()
    assert [part.cases for part in backend.started] == [2, 1]
    backend = Scripted([("over", ran(1))])
    jobs(backend, jobs=2, cases=1).run()
    assert [part.cases for part in backend.started] == [1]


def test_what_a_killed_job_was_shrinking_is_reported():
    backend = Scripted([("state", ran(10, met=finding())), None])
    assert list(jobs(backend).run().findings) == [("wrong_values", "values")]


def test_what_two_jobs_found_is_reported_as_one_campaign_would():
    of_a_relation, of_a_check = finding(check="same_call_twice"), finding()
    backend = Scripted([("over", ran(5, findings=of_a_relation))], [("over", ran(5, findings=of_a_check))])
    assert jobs(backend, jobs=2).run().findings == of_a_check


def test_jobs_that_are_killed_at_once_are_given_up():
    backend = Scripted(*[[None]] * 9)
    with pytest.raises(CannotRun, match="killed before it ran a case"):
        jobs(backend).run()
    assert len(backend.started) == 3


def test_a_job_given_up_does_not_end_the_others():
    backend = Scripted(
        [None], [("state", ran(4)), ("state", ran(4)), ("state", ran(4)), ("over", ran(5))], [None], [None]
    )
    assert jobs(backend, jobs=2).run().tally.cases == 5


def test_what_stops_a_part_stops_all():
    for message, error in ((("cannot", "No such subject."), CannotRun), (("broken", "KeyError: 1"), HarnessError)):
        backend = Scripted([message], [("state", ran(1))])
        with pytest.raises(error, match=message[1]):
            jobs(backend, jobs=2).run()
        assert backend.running == []


def test_after_ctrl_c_nothing_is_replaced():
    backend = Scripted([("state", ran(1)), ("state", ran(1)), None])
    watch = lambda campaign: signal.raise_signal(signal.SIGINT) if not backend.stopped else None  # noqa: E731
    assert jobs(backend).run(watch).tally.cases == 1
    assert (len(backend.started), backend.stopped) == (1, 1)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
