"""The documented scripts run, at a size that says nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CALLS = '[[{"N":40,"d":16,"causal":true},"ours"],[{"N":40,"d":16},"nobody"]]'
BACKWARD = '[[{"N":40,"d":16,"direction":"backward"},"ours"]]'
SCRIPTS = {
    "false_alarms.py naive-fp32 kernel-16x16 --cases 8 --jobs 2 --device cpu": "kernel-16x16",
    "where_time_goes.py --cases 20": "the harness's own share",
    "profile/analyze_io.py --d 256 --ncu no-such-ncu --json io.json": "what follows is theory",
    f"profile/ncu_target.py {CALLS}": "called ours on Row(N=40",
    f"profile/ncu_target.py {BACKWARD}": "called ours on Row(N=40",
    "where_to_judge.py --device cpu --most 17": "the device is faster from",
}


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_script_runs_and_says_what_it_should(line, tmp_path):
    assert SCRIPTS[line] in run(line, tmp_path)


def test_a_run_is_kept_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    line = "run_benchmark.py --quick --device cpu --json r.json --csv r.csv"
    run(line, tmp_path)
    kept = json.loads((tmp_path / "r.json").read_text())
    statuses = {outcome["provider"]: outcome["status"] for timed in kept["timed"] for outcome in timed["outcomes"]}
    assert statuses == dict.fromkeys(("naive", "sdpa_math", "sdpa_flash", "ours"), "ok")
    assert kept["machine"]["command"] == f"python benchmark/{line}"
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 6 * 4
    assert [timed["row"]["direction"] for timed in kept["timed"]] == 5 * ["forward"] + ["backward"]
    assert "backward causal" in run("show_results.py r.json", tmp_path)
    run("plot_results.py r.json --out plots", tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"rates_fp16.png", "speedup_fp16.png"}


def test_a_run_without_rows_says_so(tmp_path):
    assert "No row of the presets is left" in run("run_benchmark.py --preset gqa --d 7", tmp_path, ends=2)


def run(line, folder, ends=0):
    """What a script prints, of either kind, run in `folder`; it must end as it should."""
    script, *arguments = line.split()
    command = [sys.executable, str(ROOT / (script if "/" in script else f"benchmark/{script}")), *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == ends, ended.stderr[-2000:]
    return ended.stdout + ended.stderr
