"""`flashattest recall`: what is found, what is missed, what cries wolf, and how each is told."""

from __future__ import annotations

import json

import pytest

from harness.cli.main import main
from harness.errors import CannotRun
from harness.recall.examine import Task, examine_all
from harness.recall.faults import CONTROLS
from harness.recall.hunt import Limits, hunt
from harness.recall.run import Plan, chosen, recall
from harness.subject.declaration import describe
from tests.harness import toys

HANDFUL = ["gqa-interleaved", "lse-in-base-2", "padding-zeroed"]
RIGHT_BACKWARD = CONTROLS["backward-16x16"]
LIMITS = Limits("cpu", seed=0, seconds=20.0, shrink=1.0)


class Quiet:
    """Shows nothing."""

    def watch(self, campaign):
        pass

    def ended(self, recall, examined):
        pass


def asked(*arguments):
    return main(["recall", "--device", "cpu", "--time", "20", *arguments])


def test_a_handful_is_found_and_a_control_is_silent_on_as_many_cases():
    found = recall(HANDFUL, Plan(LIMITS), Quiet())
    assert {fault.id for fault in found.found} == set(HANDFUL)
    assert not found.alarms
    assert found.is_perfect
    slowest = max(found.examined[id].hunt.cases for id in HANDFUL)
    assert found.examined["naive-fp32"].hunt.cases == max(30, slowest)


def test_the_command_says_what_was_found(capsys):
    assert asked("--faults", "gqa-interleaved", "exits") == 0
    printed = capsys.readouterr().out
    for words in (
        "found    torch  N gqa-interleaved",
        "wrong_values by values",
        "; shrunk to ",
        "silent   control  naive-fp32",
        "found    process Z exits",
        "mask-applied-twice, which does not count: Masking is idempotent",
        "recall 2 of 2; 1 controls, no false alarm",
    ):
        assert words in printed
    assert "\x1b" not in printed


def test_a_right_function_is_missed(plant, capsys):
    plant(toys.right, "wrong_values")
    assert asked("--faults", "right", "--time", "1") == 1
    printed = capsys.readouterr().out
    assert "MISSED   torch  A right" in printed
    assert "recall 0 of 1, missed: right" in printed


def test_a_failure_of_another_kind_is_no_detection(plant):
    plant(toys.ignores_causal, "input_mutated")
    outcome = recall(["ignores_causal"], Plan(Limits("cpu", 0, 2.0, shrink=1.0)), Quiet())
    assert [fault.id for fault in outcome.missed] == ["ignores_causal"]
    assert {seen.kind for seen in outcome.examined["ignores_causal"].hunt.seen} == {"wrong_values"}


def test_an_alarm_on_a_control_exits_1(as_control, capsys):
    as_control(toys.ignores_causal)
    assert asked("--faults", "tail-denominator") == 1
    printed = capsys.readouterr().out
    assert "ALARM    control  ignores_causal" in printed
    assert "2 controls, false alarms on ignores_causal" in printed


def test_cases_and_seconds_are_those_of_the_first_failure():
    found = hunt(describe(toys.raises_on_long_keys), {"raised"}, LIMITS)
    (seen,) = found.seen
    assert found.cases == seen.cases >= 1
    assert found.seconds == seen.seconds > 0
    assert seen.shrunk.geometry.Nk == 65


def test_a_hunt_ends_with_its_cases():
    assert hunt(describe(toys.right), {"raised"}, Limits("cpu", 0, 20.0, cases=7)).cases == 7


def test_ctrl_c_keeps_what_was_found():
    class Stopped(Quiet):
        def watch(self, campaign):
            if campaign.subject.name == "gqa-interleaved":
                raise KeyboardInterrupt

    outcome = recall(["tail-denominator", "gqa-interleaved"], Plan(LIMITS), Stopped())
    assert [fault.id for fault in outcome.found] == ["tail-denominator"]
    assert outcome.not_run == {"gqa-interleaved": "interrupted", "naive-fp32": "interrupted"}
    assert not outcome.is_perfect


def test_a_process_of_its_own_finds_the_same():
    (here,) = examine_all([Task("gqa-interleaved", LIMITS)], 1, lambda campaign: None)
    (there,) = examine_all([Task("gqa-interleaved", LIMITS)], 2, lambda campaign: None)
    assert there.hunt.cases == here.hunt.cases
    assert there.hunt.of({"wrong_values"})


def test_faults_are_chosen_by_id_and_by_where():
    assert chosen(["gqa-modulo", "gqa-interleaved"], None) == ["gqa-modulo", "gqa-interleaved"]
    assert chosen(["gqa-modulo", "gqa-interleaved"], "torch") == ["gqa-interleaved"]
    assert "exits" in chosen([], None)
    assert "exits" not in chosen([], "torch")


def test_faults_are_chosen_by_operation():
    assert chosen(["gqa-modulo", "delta-missing"], None, "forward") == ["gqa-modulo"]
    assert chosen(["gqa-modulo", "delta-missing"], None, "forward_backward") == ["delta-missing"]


def test_a_fault_of_the_backward_is_found_and_its_control_has_gradients(monkeypatch):
    monkeypatch.setitem(CONTROLS, "backward-16x16", RIGHT_BACKWARD)
    found = recall(["delta-missing"], Plan(LIMITS), Quiet())
    assert [fault.id for fault in found.found] == ["delta-missing"]
    assert found.controls == ["backward-16x16"]
    assert found.is_perfect


def test_an_unknown_fault_exits_2_and_names_its_like(capsys):
    assert asked("--faults", "gqa-modulu") == 2
    assert "no planted fault 'gqa-modulu'; names like it: gqa-modulo" in capsys.readouterr().err
    with pytest.raises(CannotRun):
        chosen(["nothing-like-it"], None)


def test_json_and_markdown(tmp_path, plant):
    plant(toys.right, "wrong_values")
    told, table = tmp_path / "recall.json", tmp_path / "recall.md"
    asked(
        "--faults", "tail-denominator", "right", "exits", "--time", "2", "--json", str(told), "--markdown", str(table)
    )
    outcome = json.loads(told.read_text())
    assert (outcome["found"], outcome["total"], outcome["missed"]) == (2, 3, ["right"])
    assert outcome["false_alarms"] == []
    assert outcome["not_run"] == {}
    found, crashed, missed = outcome["faults"]
    assert crashed["detections"][0]["kind"] == "crashed"
    assert found["detections"][0]["check"] == "values"
    assert found["detections"][0]["shrunk"] == {}
    assert (missed["found"], missed["detections"]) == (False, [])
    assert_is_table_ready(table.read_text())
    assert "| right | A | torch | **missed** |" in table.read_text()


def assert_is_table_ready(markdown):
    """Every row has as many cells as the header over it."""
    cells = 0
    for line in markdown.splitlines():
        count = line.replace("\\|", "").count("|")
        cells = 0 if not count else cells or count
        assert count == cells
