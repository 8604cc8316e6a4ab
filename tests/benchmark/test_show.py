"""The tables that are printed: ours over the others in one line each, and a kept file shown again."""

import pytest

import show_results
from speed.markdown import table
from speed.results import Outcome, Timed, write
from speed.rows import Row
from speed.show import summary

from .synthetic import results


def timed(**rates):
    return Timed("peers", Row(N=8, d=8), tuple(Outcome(name, tflops=rate) for name, rate in rates.items()))


def test_a_summary_has_the_geometric_mean_the_least_and_the_most():
    rows = [timed(a=10.0, b=5.0, ours=20.0), timed(a=4.0, b=8.0, ours=4.0)]
    assert summary(rows, ("ours",)) == [
        "ours / the best of the others, 2 rows: 1.000 (least 0.500, most 2.000)",
        "ours / a, 2 rows: 1.414 (least 1.000, most 2.000)",
        "ours / b, 2 rows: 1.414 (least 0.500, most 4.000)",
    ]


def test_without_ours_or_others_there_is_none():
    assert summary([timed(a=1.0)], ("ours",)) == summary([timed(ours=1.0)], ("ours",)) == []


def test_a_kept_file_is_shown(tmp_path, capsys):
    write(results("peers"), tmp_path / "r.json", None)
    assert show_results.main([str(tmp_path / "r.json")]) == 0
    said = capsys.readouterr().out
    assert "Imagined GPU" in said
    assert "ours / sdpa_cudnn, 36 rows: " in said


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON"])
def test_another_file_is_refused(content, tmp_path, capsys):
    (tmp_path / "r.json").write_text(content)
    assert show_results.main([str(tmp_path / "r.json")]) == 2
    assert "show_results: " in capsys.readouterr().err


def test_a_table_has_the_fastest_in_bold_and_a_gap_for_who_was_not_timed():
    run = results("gqa")
    run.timed, run.labels = [timed(a=10.0, ours=20.0), timed(a=8.0)], {"a": "A (SDPA)", "ours": "ours"}
    assert table(run, "peers")[0] == "| d | N | causal | A | ours | ours / best of the others |"
    assert table(run, "peers")[2:] == ["| 8 | 8 | no | 10 | **20** | 2.00 |", "| 8 | 8 | no | **8** |  |  |"]


def test_tables_are_printed(tmp_path, capsys):
    write(results("backward"), tmp_path / "r.json", None)
    assert show_results.main([str(tmp_path / "r.json"), "--markdown", "ours", "sdpa_cudnn"]) == 0
    assert capsys.readouterr().out.startswith("| d | N | causal | ours | cuDNN | ours / best")
