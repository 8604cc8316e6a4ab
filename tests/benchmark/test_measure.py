"""Measuring a row: who is timed and who is not, the turns, and what the files keep."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from speed.ceilings import Ceilings
from speed.clock import CpuClock
from speed.judge import judge_of
from speed.measure import Bench, measure_row
from speed.providers import Provider, Refused, named
from speed.results import Outcome, Results, Timed, from_json, to_csv, to_json
from speed.rows import Row
from speed.turns import BoundCall, Schedule, Spread, take_turns

ROW = Row(N=16, d=8, Hq=2, Hk=2, dtype="fp32")
BENCH = Bench("cpu", CpuClock(), Schedule(2, 0.5), Ceilings({"fp32": 1.0}, 1.0))


class FakeClock:
    """Says what it is told to, and in which order it was asked."""

    def __init__(self, **milliseconds):
        self.milliseconds, self.asked = milliseconds, []

    def estimate(self, call):
        return self.milliseconds[call()]

    def times(self, call, repeats):
        self.asked.append((call(), repeats))
        return [self.milliseconds[call()]] * repeats

    def host(self, call):
        return 0.25

    def peak_bytes(self, call):
        return 64


def raising(problem):
    def bind(row, inputs):
        raise problem

    return Provider("other", "other", bind)


def outcome(provider):
    (naive, other) = measure_row("test", ROW, [named("naive"), provider], BENCH).outcomes
    assert naive.status == "ok"
    return other


def test_one_that_is_right_is_timed():
    timed = outcome(named("sdpa_math"))
    assert timed.status == "ok"
    assert timed.tflops == pytest.approx(ROW.flops / timed.ms.median * 1e-9)
    assert timed.ms.q1 <= timed.ms.median <= timed.ms.q3
    assert timed.share == timed.tflops


def test_one_that_is_wrong_is_not_timed():
    wrong = outcome(Provider("other", "other", lambda row, inputs: lambda: inputs.v.clone()))
    assert (wrong.status, wrong.ms, wrong.tflops) == ("wrong", None, None)
    assert wrong.error > 1


@pytest.mark.parametrize(("ours", "status"), [(False, "ok"), (True, "wrong")])
def test_a_peer_may_round_more_than_ours_may(ours, status):
    def bind(row, inputs):
        O = named("naive").bind(row, inputs)()
        for piece in judge_of(row, inputs).pieces:
            O[piece.index] = piece.right + 3 * piece.budget
        return lambda: O

    found = outcome(Provider("other", "other", bind, ours=ours))
    assert found.status == status
    assert found.error == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (Refused("not this"), "refused"),
        (NotImplementedError("not that"), "refused"),
        (RuntimeError("No available kernel. Aborting execution."), "refused"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
        (RuntimeError("misaligned address"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_one_that_raises_is_told_and_not_timed(problem, status):
    told = outcome(raising(problem))
    assert (told.status, told.ms) == (status, None)
    assert told.why


def test_one_that_is_given_no_such_size_is_not_called():
    assert outcome(Provider("other", "other", raising(AssertionError()).bind, scores=4)).status == "too large"


def test_each_round_begins_with_another():
    clock = FakeClock(a=1.0, b=2.0)
    take_turns({name: BoundCall(lambda name=name: name) for name in "ab"}, clock, Schedule(3, 12.0))
    assert clock.asked == [("a", 4), ("b", 2), ("b", 2), ("a", 4), ("a", 4), ("b", 2)]


def test_a_spread_is_the_median_of_all_and_of_each_round():
    spread = Spread.of([[1.0, 2.0, 3.0], [4.0, 5.0]])
    assert (spread.median, spread.q1, spread.q3, spread.samples, spread.rounds) == (3.0, 2.0, 4.0, 5, [2.0, 4.5])


@pytest.mark.parametrize(("estimate", "repeats"), [(1e-9, 100), (1.0, 20), (1e6, 2)])
def test_repeats_stay_within_limits(estimate, repeats):
    assert Schedule(5, 100.0).repeats(estimate) == repeats


def results():
    spread = Spread.of([[1.0, 2.0], [3.0]])
    fine = Outcome("ours", error=0.5, ms=spread, host_ms=spread, peak_bytes=5, tflops=2.0, share=0.5)
    bad = Outcome("naive", "wrong", "its error is inf times what is allowed", float("inf"))
    rows = [Timed("peers", ROW, (fine, bad))]
    machine = {"device": "a device", "commit": "abc", "command": "python x.py"}
    return Results(machine, {"rounds": 2}, Ceilings({"fp32": 4.0}, 3.0), {"ours": "ours"}, ("ours",), timed=rows)


def test_json_comes_back_as_it_was():
    assert from_json(to_json(results())) == results()


def test_a_file_from_before_rows_had_a_pass_is_one_of_forwards():
    data = json.loads(to_json(results()))
    del data["timed"][0]["row"]["direction"]
    assert from_json(json.dumps(data)) == results()


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "benchmark/results").glob("[pls]*.json")), ids=str)
def test_the_kept_results_are_read(path):
    assert from_json(path.read_text()).timed


def test_another_json_is_refused():
    with pytest.raises(ValueError, match="no file of run_benchmark"):
        from_json("[]")


def test_each_line_of_the_csv_says_where_it_is_from():
    ours, naive = csv.DictReader(io.StringIO(to_csv(results())))
    assert (ours["provider"], float(ours["ms_median"]), ours["device"], ours["commit"]) == (
        "ours",
        2.0,
        "a device",
        "abc",
    )
    assert (naive["status"], naive["ms_median"], naive["command"]) == ("wrong", "", "python x.py")


def test_the_host_is_timed_where_it_is_asked_for():
    clock = FakeClock()
    clock.estimate, clock.times = lambda call: 1.0, lambda call, repeats: [1.0] * repeats
    bench = Bench("cpu", clock, Schedule(1, 1.0), Ceilings({}, 1.0), host=True)
    (timed,) = measure_row("launch", ROW, [named("naive")], bench).outcomes
    assert (timed.host_ms.median, timed.peak_bytes, timed.share) == (0.25, 64, None)
