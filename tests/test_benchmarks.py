"""The scripts that the README names run, at a size that says nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    "false_alarms.py naive-fp32 kernel-16x16 --cases 8 --jobs 2 --device cpu": "kernel-16x16",
    "where_time_goes.py --cases 20": "the harness's own share",
    "where_to_judge.py --device cpu --most 17": "the device is faster from",
}


@pytest.mark.parametrize("line", SCRIPTS)
def test_a_script_runs_and_says_what_it_should(line, tmp_path):
    script, *arguments = line.split()
    command = [sys.executable, str(ROOT / "benchmark" / script), *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert SCRIPTS[line] in ended.stdout
