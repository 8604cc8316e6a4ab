"""`flashattest recall`: what is found, what is missed, which controls draw an alarm, and how each is reported."""

from __future__ import annotations

import json

import pytest

from harness.cli.main import main
from harness.errors import CannotRun
from harness.recall.faults import CONTROLS, FAULTS
from harness.recall.hunt import Hunt, HuntLimits, Seen, hunt
from harness.recall.outcome import Recall, to_json
from harness.recall.run import RecallPlan, choose_faults, recall
from harness.recall.table import to_markdown
from harness.recall.trial import Fired, Trial, TrialResult, run_trials
from harness.subject.declaration import describe
from tests.harness import toys

HANDFUL = ["gqa-interleaved", "lse-in-base-2", "padding-zeroed"]
RIGHT_BACKWARD = CONTROLS["backward-16x16"]
LIMITS = HuntLimits("cpu", seed=0, seconds=20.0, shrink=1.0)


class Quiet:
    """Shows nothing."""

    def watch(self, campaign):
        pass

    def ended(self, recall, result):
        pass


def asked(*arguments):
    return main(["recall", "--device", "cpu", "--time", "20", *arguments])


def test_a_handful_is_found_and_a_control_is_silent_on_as_many_cases():
    found = recall(HANDFUL, RecallPlan(LIMITS), Quiet())
    assert {fault.id for fault in found.found} == set(HANDFUL)
    assert not found.alarms
    assert found.is_perfect
    slowest = max(found.results[id].hunt.cases for id in HANDFUL)
    assert found.results["naive-fp32"].hunt.cases == max(30, slowest)


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
        "recall 2 of 2 faults (2 of 2 plants); 1 controls, no false alarm",
    ):
        assert words in printed
    assert "\x1b" not in printed


def test_a_right_function_is_missed(plant, capsys):
    plant(toys.right, "wrong_values")
    assert asked("--faults", "right", "--time", "1") == 1
    printed = capsys.readouterr().out
    assert "MISSED   torch  A right" in printed
    assert "recall 0 of 1 faults (0 of 1 plants), missed: right" in printed


def test_a_failure_of_another_kind_is_no_detection(plant):
    plant(toys.ignores_causal, "input_mutated")
    outcome = recall(["ignores_causal"], RecallPlan(HuntLimits("cpu", 0, 2.0, shrink=1.0)), Quiet())
    assert [fault.id for fault in outcome.missed] == ["ignores_causal"]
    assert {seen.kind for seen in outcome.results["ignores_causal"].hunt.seen} == {"wrong_values"}


def outcome_of(**found):
    """A recall of these plants, each found or not."""
    results = {}
    for id, is_found in found.items():
        case, kind = FAULTS[id].witness, min(FAULTS[id].expects)
        seen = (Seen(kind, "values", "Wrong.", 1, 0.1, case, case),) if is_found else ()
        results[id] = TrialResult(id, Hunt(1, 0.1, seen), {"suite": Fired(is_found, 0.1)})
    return Recall(0, "cpu", 1.0, results=results)


@pytest.mark.parametrize(
    ("kernel", "torch", "distinct"), [(True, True, 2), (True, False, 1), (False, True, 1), (False, False, 1)]
)
def test_a_fault_with_two_plants_is_found_where_both_are(kernel, torch, distinct):
    outcome = outcome_of(**{"gqa-modulo": kernel, "gqa-interleaved": torch, "tail-denominator": True})
    told = to_json(outcome)
    assert (told["distinct_found"], told["distinct_total"]) == (distinct, 2)
    assert (told["found"], told["total"]) == (kernel + torch + 1, 3)
    assert [fault["twin"] for fault in told["faults"]] == ["gqa-interleaved", None, None]
    ours, suite = to_markdown(outcome).splitlines()[2:4]
    counts = f"{distinct} of 2 | {kernel + torch + 1} of 3 | {int(kernel)} of 1 | {torch + 1} of 2 | 0 of 0 |"
    assert ours == f"| **flashattest** | {counts}"
    assert suite == f"| suite | {counts}"


def test_a_twin_that_was_not_run_does_not_count():
    told = to_json(outcome_of(**{"gqa-modulo": True}))
    assert (told["distinct_found"], told["distinct_total"]) == (1, 1)


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
    assert hunt(describe(toys.right), {"raised"}, HuntLimits("cpu", 0, 20.0, cases=7)).cases == 7


def test_ctrl_c_keeps_what_was_found():
    class Stopped(Quiet):
        def watch(self, campaign):
            if campaign.subject.name == "gqa-interleaved":
                raise KeyboardInterrupt

    outcome = recall(["tail-denominator", "gqa-interleaved"], RecallPlan(LIMITS), Stopped())
    assert [fault.id for fault in outcome.found] == ["tail-denominator"]
    assert outcome.not_run == {"gqa-interleaved": "interrupted", "naive-fp32": "interrupted"}
    assert not outcome.is_perfect


def test_a_process_of_its_own_finds_the_same():
    (here,) = run_trials([Trial("gqa-interleaved", LIMITS)], 1, lambda campaign: None)
    (there,) = run_trials([Trial("gqa-interleaved", LIMITS)], 2, lambda campaign: None)
    assert there.hunt.cases == here.hunt.cases
    assert there.hunt.of({"wrong_values"})


def test_faults_are_chosen_by_id_and_by_where():
    assert choose_faults(["gqa-modulo", "gqa-interleaved"], None) == ["gqa-modulo", "gqa-interleaved"]
    assert choose_faults(["gqa-modulo", "gqa-interleaved"], "torch") == ["gqa-interleaved"]
    assert "exits" in choose_faults([], None)
    assert "exits" not in choose_faults([], "torch")


def test_faults_are_chosen_by_operation():
    assert choose_faults(["gqa-modulo", "delta-missing"], None, "forward") == ["gqa-modulo"]
    assert choose_faults(["gqa-modulo", "delta-missing"], None, "forward_backward") == ["delta-missing"]


def test_a_fault_of_the_backward_is_found_and_its_control_has_gradients(monkeypatch):
    monkeypatch.setitem(CONTROLS, "backward-16x16", RIGHT_BACKWARD)
    found = recall(["delta-missing"], RecallPlan(LIMITS), Quiet())
    assert [fault.id for fault in found.found] == ["delta-missing"]
    assert found.controls == ["backward-16x16"]
    assert found.is_perfect


def test_an_unknown_fault_exits_2_and_names_its_like(capsys):
    assert asked("--faults", "gqa-modulu") == 2
    assert "no planted fault 'gqa-modulu'; names like it: gqa-modulo" in capsys.readouterr().err
    with pytest.raises(CannotRun):
        choose_faults(["nothing-like-it"], None)


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
