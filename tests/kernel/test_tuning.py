"""Autotuning, with paths and a clock of the tests' own: what is measured, what is kept, what a file holds."""

import dataclasses
import json
import logging
from functools import partial

import pytest
import torch
from triton.runtime.errors import OutOfResources

from kernel import flash_attention
from kernel.call.arguments import Asked, check_arguments
from kernel.call.plan import Plan
from kernel.tiles import tuning
from kernel.tiles.tuning import TUNED, Choice, bucket_of, load, power_of_two, save, tuned_plan

from .contract import PATHS
from .tensors import draw


class Toy:
    """A path whose tiles are the milliseconds that they take; "broken" does not run."""

    def __init__(self, name, *tiles):
        self.name, self.tiles, self.ran = name, tiles, []

    def refusal(self, problem):
        return None

    def configs(self, problem):
        return self.tiles

    def plan(self, problem, config=None):
        return Plan(self.name, config, partial(self.launch, config))

    def launch(self, config, *tensors):
        if config.startswith("broken"):
            raise OutOfResources(2, 1, "shared memory")
        self.ran.append(config)


@pytest.fixture(autouse=True)
def _nothing_tuned():
    before = dict(TUNED)
    TUNED.clear()
    yield
    TUNED.clear()
    TUNED.update(before)


def problem(Nq=17, Nk=33, heads=2, causal=False, dtype=torch.float32, seqlens_k=None, d=16):
    return check_arguments(Asked(*draw(1, heads, 1, Nq, Nk, d, dtype), causal, seqlens_k))


def clock(path):
    """A timer that runs the call and reads the time off the tile that ran."""

    def timer(call):
        call()
        return float(path.ran[-1])

    return timer


def run(path, of=None):
    path.ran.clear()
    tuned_plan(of or problem(), [path], clock(path)).launch()
    return path.ran


def test_the_fastest_tile_runs_after_all_were_measured():
    assert run(Toy("toy", "3", "1", "2")) == ["3", "1", "2", "1"]


def test_a_bucket_is_measured_once():
    toy = Toy("toy", "3", "1", "2")
    run(toy)
    assert run(toy) == ["1"]
    assert run(toy, problem(Nq=32, Nk=64)) == ["1"]
    assert run(toy, problem(Nq=33)) == ["3", "1", "2", "1"]


@pytest.mark.parametrize(
    "other",
    [
        {"Nk": 65}, {"heads": 4}, {"causal": True}, {"causal": "lower_right"}, {"dtype": torch.float16}, {"d": 8},
        {"seqlens_k": torch.tensor([3])},
    ],
)  # fmt: skip
def test_another_kind_of_problem_is_another_bucket(other):
    paths = [Toy("toy", "1")]
    assert bucket_of(problem(**other), paths) != bucket_of(problem(), paths)
    assert bucket_of(problem(), [*paths, Toy("second", "1")]) != bucket_of(problem(), paths)


def test_powers_of_two():
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5, 1000, 1024)] == [0, 1, 2, 4, 4, 8, 1024, 1024]


def test_a_tile_that_does_not_run_is_left_out(caplog):
    caplog.set_level(logging.INFO, "flashattest.kernel")
    assert run(Toy("toy", "broken", "2", "1"))[-1] == "1"
    assert "toy:broken does not run here: out of resource" in caplog.text


def test_no_tile_that_runs_is_said():
    with pytest.raises(RuntimeError, match="no tile of toy:broken, toy:broken too runs on cpu"):
        run(Toy("toy", "broken", "broken too"))


def test_a_single_tile_is_not_measured():
    assert run(Toy("toy", "1")) == ["1"]
    assert not TUNED


def test_paths_are_measured_against_each_other():
    slow, fast = Toy("slow", "3", "2"), Toy("fast", "1")
    fast.ran = slow.ran
    tuned_plan(problem(), [slow, fast], clock(slow)).launch()
    assert slow.ran == ["3", "2", "1", "1"]
    assert list(TUNED.values()) == [Choice("fast:1", 1.0)]


def test_a_plan_looks_its_tile_up_whenever_it_runs():
    toy = Toy("toy", "3", "1")
    plan = tuned_plan(problem(), [toy], clock(toy))
    plan.launch()
    (bucket,) = TUNED
    TUNED[bucket] = Choice("toy:3", 0.5)
    toy.ran.clear()
    plan.launch()
    assert toy.ran == ["3"]


def test_a_tile_that_this_version_does_not_have_is_measured_anew():
    toy = Toy("toy", "3", "1")
    TUNED[bucket_of(problem(), [toy])] = Choice("toy:99", 0.1)
    assert run(toy) == ["3", "1", "1"]


def test_what_is_saved_is_loaded(tmp_path):
    run(Toy("toy", "3", "1"))
    run(Toy("toy", "3", "1"), problem(causal=True))
    before = dict(TUNED)
    assert save(tmp_path / "tuned.json") == 2
    TUNED.clear()
    assert load(tmp_path / "tuned.json") == 2
    assert before == TUNED
    assert run(Toy("toy", "3", "1")) == ["1"]


def test_results_of_another_triton_or_device_are_kept_and_never_used(tmp_path):
    toy = Toy("toy", "3", "1")
    bucket = bucket_of(problem(), [toy])
    foreign = {bucket._replace(triton="0.1"): Choice("toy:3", 0.1), bucket._replace(device="x"): Choice("toy:3", 0.1)}
    TUNED.update(foreign)
    save(tmp_path / "tuned.json")
    TUNED.clear()
    load(tmp_path / "tuned.json")
    assert run(toy) == ["3", "1", "1"]
    assert foreign.items() <= TUNED.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be a file of tuning results"),
        ("[1]", "must be a file of tuning results"),
        ('{"rows": []}', "must be a file of tuning results"),
        ('{"format": 2, "rows": []}', "must have the format 1 of tuning results, got 2"),
        ('{"format": 1, "rows": [{"device": "cpu"}]}', "must be a file of tuning results"),
        ('{"format": 1, "rows": 1}', "must be a file of tuning results"),
    ],
)
def test_another_file_is_refused_in_one_sentence(text, message, tmp_path):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(file)
    assert "\n" not in str(caught.value)
    assert not TUNED


def test_a_row_with_a_value_of_another_type_is_refused(tmp_path):
    run(Toy("toy", "3", "1"))
    save(tmp_path / "tuned.json")
    content = json.loads((tmp_path / "tuned.json").read_text())
    content["rows"][0]["Nq"] = "17"
    (tmp_path / "tuned.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must be a file of tuning results"):
        load(tmp_path / "tuned.json")


def test_nothing_is_measured_while_a_graph_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="cannot while a CUDA graph is recorded: call it once before"):
        run(Toy("toy", "3", "1"))


def test_the_interpreter_has_nothing_to_tune(device):
    if device.type == "cpu":
        flash_attention(*draw(1, 1, 1, 3, 5, 8), config="autotune")
        assert not TUNED


def test_autotune_agrees():
    dataclasses.replace(PATHS["portable"], config="autotune").attest(20, 40, 16, "fp16", causal=True)


@pytest.mark.cuda
def test_autotune_measures_once_and_agrees(monkeypatch):
    calls = []
    monkeypatch.setattr(tuning, "measure", lambda *a, real=tuning.measure: calls.append(a) or real(*a))
    q, k, v = draw(2, 4, 2, 300, 500, 64, torch.bfloat16, "cuda")
    for _ in range(2):
        flash_attention(q, k, v, True, return_lse=True, config="autotune")
    assert len(calls) == 1
    for dtype in PATHS["portable"].dtypes:
        dataclasses.replace(PATHS["portable"], config="autotune").attest(300, 500, 64, dtype, Hq=4, Hk=2, causal=True)
