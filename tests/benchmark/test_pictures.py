"""The pictures: each is drawn, no two of its words lie over one another, and what they show is what was measured."""

import sys
from functools import cache

import pytest

import plot_results
from speed.pictures import pictures, save_all
from speed.pictures.launch import costs
from speed.pictures.rates import lines
from speed.pictures.savings import causal_cost, padding_cost
from speed.pictures.speedup import _once, _ratios
from speed.pictures.style import in_bytes, look, machine_line, tokens
from speed.presets import PRESETS
from speed.providers import PROVIDERS
from speed.results import Outcome, Timed, to_json
from speed.rows import Row
from speed.turns import Spread

from .synthetic import results, words, words_over_one_another

NAMES = {"rates_bf16", "rates_fp16", "speedup_bf16", "speedup_fp16", "gqa", "memory", "savings", "launch"}
NAMES |= {"rates_backward_bf16", "speedup_backward_bf16", "memory_backward", "launch_backward"}


@cache
def made(*presets):
    pytest.importorskip("matplotlib")
    return {name: figure for name, figure in pictures(results(*presets)) if figure is not None}


def test_every_preset_has_its_picture():
    assert set(made()) == NAMES


def test_what_was_not_measured_is_not_drawn():
    assert set(made("gqa")) == {"gqa"}


def test_the_passes_are_not_drawn_together():
    figures = made("backward", "peers", "launch", "launch_backward")
    assert {"rates_bf16", "rates_backward_bf16", "launch", "launch_backward"} <= set(figures)
    assert [any("2.5 times" in said for said, _ in words(figures[f"rates{of}_bf16"])) for of in ("", "_backward")] == [
        False,
        True,
    ]
    assert len(figures["launch"].axes) == len(figures["launch_backward"].axes) == 4


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_words_lie_over_one_another(name):
    assert words_over_one_another(made()[name]) == []


def test_words_that_do_are_seen():
    figure = made.__wrapped__("gqa")["gqa"]
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "other")
    assert ("one", "other") in words_over_one_another(figure)


def test_the_device_and_the_versions_are_in_every_picture():
    for figure in made().values():
        said = " ".join(text for text, _ in words(figure))
        assert "Imagined GPU · torch 2.11.0 · triton 3.6.0" in said


def test_files_are_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert save_all(pictures(results("gqa")), tmp_path / "plots") == 0
    assert (tmp_path / "plots" / "gqa.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_is_said_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert save_all(iter(()), tmp_path) == 2
    assert "flashattest[plot]" in capsys.readouterr().err


def test_several_files_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "one.json").write_text(to_json(results("gqa")))
    (tmp_path / "more.json").write_text(to_json(results("memory")))
    files = [str(tmp_path / name) for name in ("one.json", "more.json")]
    assert plot_results.main([*files, "--out", str(tmp_path / "plots")]) == 0
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"gqa", "memory"}


def test_two_devices_are_not_drawn_together(tmp_path, capsys):
    other = results("memory")
    other.machine = {**other.machine, "device": "another"}
    with pytest.raises(ValueError, match="One device a picture"):
        plot_results.merged([results("gqa"), other])


def test_rounds_of_several_runs_are_all_named():
    one, other = results("gqa"), results("memory")
    one.settings, other.settings = {"rounds": 5}, {"rounds": 3}
    assert plot_results.merged([one, other]).settings["rounds"] == "3 or 5"


def test_commits_and_days_of_several_runs_are_all_named():
    one, same, other = results("gqa"), results("launch"), results("memory")
    one.machine = same.machine = {**one.machine, "date": "2026-11-22 23:59 UTC"}
    other.machine = {**one.machine, "commit": "ba9876543210", "date": "2026-11-23 00:10 UTC"}
    said = machine_line(plot_results.merged([one, same, other]).machine)
    assert said.endswith("commit 0123456789ab and ba9876543210 · 2026-11-22 and 2026-11-23")


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1}', '{"kind": "io"}'])
def test_another_file_is_refused_by_name(content, tmp_path, capsys):
    (tmp_path / "other.json").write_text(content)
    assert plot_results.main([str(tmp_path / "other.json")]) == 2
    assert "other.json cannot be read" in capsys.readouterr().err


def timed(milliseconds, **row):
    row = Row(**{"N": 64, "d": 32, **row})
    rates = {name: row.flops / ms * 1e-9 for name, ms in milliseconds.items()}
    spreads = {name: Spread.of([[ms]]) for name, ms in milliseconds.items()}
    return Timed("peers", row, tuple(Outcome(name, ms=spreads[name], tflops=rates[name]) for name in milliseconds))


def run_of(*rows, preset="peers"):
    run = results("gqa")
    run.timed = [Timed(preset, each.row, each.outcomes) for each in rows]
    return run


def test_causal_cost_is_its_time_over_the_full_one():
    run = run_of(timed({"ours": 4.0}), timed({"ours": 3.0}, causal=True), timed({"ours": 9.0}, N=128))
    assert causal_cost(run, 32) == {"ours": [(64, 0.75)]}


def test_causal_cost_is_of_twins_in_one_preset():
    run = run_of(timed({"ours": 4.0, "naive": 8.0}), timed({"ours": 3.0, "naive": 8.0}, causal=True))
    run.timed += run_of(timed({"ours": 4.0}), timed({"ours": 2.0}, causal=True), preset="causal").timed
    assert causal_cost(run, 32) == {"ours": [(64, 0.5)], "naive": [(64, 1.0)]}


def test_padding_cost_is_its_time_over_the_unpadded_one():
    rows = [timed({"ours": 4.0}), timed({"ours": 1.0}, padding=0.75), timed({"ours": 2.0}, padding=0.5, ragged=True)]
    assert padding_cost(run_of(*rows, preset="padding"), False) == {"ours": [(0.25, 0.25), (1.0, 1.0)]}


def test_ours_is_compared_with_the_fastest_and_with_fa2():
    one = timed({"ours": 2.0, "sdpa_flash": 5.0, "sdpa_cudnn": 1.0})
    assert _ratios(one, ("ours",)) == pytest.approx({"best": 0.5, "fa2": 2.5})
    assert _ratios(timed({"ours": 2.0}), ("ours",)) == {}


def test_of_twins_the_one_with_most_others_is_taken():
    few, many = timed({"ours": 2.0, "sdpa_flash": 5.0}), timed({"ours": 2.0, "sdpa_flash": 5.0, "sdpa_cudnn": 1.0})
    assert _once([many, few]) == _once([few, many]) == [many]


def test_a_line_has_a_point_for_each_length_that_was_timed():
    rows = [timed({"ours": 2.0}, N=128), timed({"ours": 1.0, "naive": 4.0})]
    assert [x for x, *_ in lines(rows, lambda row: row.N)["ours"]] == [64, 128]
    assert len(lines(rows, lambda row: row.N)["naive"]) == 1


def test_costs_are_microseconds():
    one = Outcome("ours", ms=Spread.of([[0.004]]), host_ms=Spread.of([[0.03]]))
    assert costs(Timed("launch", Row(N=16, d=64), (one,)))["ours"] == pytest.approx((30.0, 4.0))


def test_no_two_providers_of_a_preset_look_alike():
    for preset in PRESETS.values():
        colours = [look(name, ("ours",)).colour for name in preset.providers]
        assert len(set(colours)) == len(colours)
    assert look("ours", ("ours",)).ours
    assert set(PROVIDERS) >= {"ours"}


def test_sizes_read_as_people_write_them():
    assert [tokens(N) for N in (512, 1024, 65536)] == ["512", "1k", "64k"]
    assert [in_bytes(count) for count in (12, 5 << 10, 3 << 29, 64 << 30)] == ["12 B", "5 KB", "1.5 GB", "64 GB"]
