"""The command: what it takes, what it leaves out, and how it ends."""

import json

import pytest

import run_benchmark
from speed.providers import PROVIDERS, Provider
from speed.rows import Row

QUICK = ["--quick", "--device", "cpu", "--N", "32", "--causal", "no", "--providers", "naive"]


def test_one_of_ours_that_is_wrong_ends_with_1(monkeypatch, capsys):
    wrong = Provider("ours", "ours", lambda row, inputs: lambda: inputs.v.clone(), ours=True)
    monkeypatch.setitem(PROVIDERS, "ours", wrong)
    assert run_benchmark.main([*QUICK, "ours"]) == 1
    said = capsys.readouterr().out
    assert "WRONG" in said
    assert "ours wrong on Row(N=32" in said


def test_a_peer_that_is_wrong_is_told_and_no_failure(monkeypatch, capsys):
    wrong = Provider("sdpa_math", "math", lambda row, inputs: lambda: inputs.v.clone())
    monkeypatch.setitem(PROVIDERS, "sdpa_math", wrong)
    assert run_benchmark.main([*QUICK, "sdpa_math"]) == 0
    assert "sdpa_math wrong on" in capsys.readouterr().out


def test_what_is_absent_is_told(capsys):
    assert run_benchmark.main([*QUICK, "sdpa_cudnn"]) == 0
    assert "sdpa_cudnn is absent: it runs on cuda only." in capsys.readouterr().out


def test_rows_for_which_there_is_no_time_are_told(capsys, tmp_path):
    assert run_benchmark.main([*QUICK, "--time", "0", "--json", str(tmp_path / "r.json")]) == 0
    assert "Left out for want of time: quick, Row(N=32" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["left_out"]


def test_a_row_that_fails_as_a_whole_does_not_end_the_run(monkeypatch, capsys, tmp_path):
    def fails(preset, row, providers, bench):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run_benchmark, "measure_row", fails)
    assert run_benchmark.main([*QUICK, "--json", str(tmp_path / "r.json")]) == 0
    assert "since it failed as a whole: quick, Row(N=32" in capsys.readouterr().out
    (left_out,) = json.loads((tmp_path / "r.json").read_text())["left_out"]
    assert "illegal memory access" in left_out


def test_axes_without_a_preset_span_a_grid():
    line = "--N 64 128 --d 32 --causal no yes --gqa 1 4 --padding 0 0.5 --batch 3 --heads 8 --dtype fp16 bf16"
    (work,) = run_benchmark._works(run_benchmark._arguments(line.split()))
    assert len(set(work.rows)) == len(work.rows) == 2 * 2 * 2 * 2 * 2
    assert Row(N=128, d=32, B=3, Hq=8, Hk=2, dtype="bf16", causal=True, padding=0.5) in work.rows


def test_axes_thin_out_a_preset():
    line = "--preset peers gqa --d 128 --causal yes --dtype bf16"
    works = run_benchmark._works(run_benchmark._arguments(line.split()))
    assert [work.preset for work in works] == ["peers", "gqa"]
    assert all(row.d == 128 and row.causal and row.dtype == "bf16" for work in works for row in work.rows)


def test_nothing_asked_is_the_table_of_peers():
    (work,) = run_benchmark._works(run_benchmark._arguments([]))
    assert (work.preset, len(work.rows)) == ("peers", 36)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--gqa 3", "--gqa must divide --heads"),
        ("--quick --providers nobody", "provider must be one of"),
        ("--preset peers --N 3", "No row of the presets is left"),
        ("--N 8 --padding 1.5", "padding must lie in [0, 1)"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(line, said, capsys):
    assert run_benchmark.main(["--device", "cpu", *line.split()]) == 2
    assert said in capsys.readouterr().err
