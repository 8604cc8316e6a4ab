"""Ahead-of-time compilation with no GPU: the report, its verdicts, and what the compiler makes of the fast path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel import resources
from kernel.resources import Point, Resources
from kernel.tiles import TileConfig

ROOT = Path(resources.__file__).parents[1]
TILE = TileConfig(64, 32, 4, 2)

COUNT_COPIES = """
from kernel.resources import Point, compile_kernel
from kernel.tiles import TileConfig
for fast in (True, False):
    ptx = compile_kernel(Point(90, 64, "fp16", TileConfig(64, 32, 4, 2), False), FAST=fast).asm["ptx"]
    print("wgmma.mma_async" in ptx, "ld.global.v4" in ptx, "cp.async.cg.shared.global" in ptx)
"""


def run_compiled(*arguments, timeout=300):
    """Run python in a process without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def test_the_fast_path_copies_16_bytes_at_a_time_and_both_use_wgmma():
    done = run_compiled("-c", COUNT_COPIES)
    assert done.stdout.split("\n")[:2] == ["True True True", "True False False"], done.stderr


def test_the_report_of_a_default(tmp_path):
    table = tmp_path / "table.json"
    arguments = ("--arch", "90", "--d", "64", "--dtype", "fp16", "--defaults-only", "--json", str(table))
    done = run_compiled("-m", "kernel.resources", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads(table.read_text())
    assert {row["path"] for row in rows} == {"portable", "decode"}
    for row in rows:
        assert row["default"]
        assert row["verdict"] == "ok"
        assert row["spilled"] == 0
        assert 0 < row["registers"] <= 255
        assert row["shared"] > 0


def test_it_restarts_without_the_interpreter():
    arguments = ("-m", "kernel.resources", "--arch", "90", "--d", "16", "--dtype", "fp16", "--defaults-only")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sm_90" in done.stdout


@pytest.mark.parametrize(("verdict", "status"), [("ok", 0), ("spills", 1), ("does not fit", 1)])
def test_a_bad_default_fails(verdict, status, monkeypatch, capsys):
    point = Point(90, 64, "fp16", TILE, True)
    monkeypatch.setattr(resources, "measure_all", lambda points, jobs: [(point, Resources(1, 0, 1, verdict))])
    assert resources.main(["--defaults-only"]) == status
    assert ("the default 64x32x4x2 of sm_90" in capsys.readouterr().err) == bool(status)


def test_a_spilling_tile_that_is_no_default_passes(monkeypatch):
    point = Point(90, 64, "fp16", TILE, False)
    monkeypatch.setattr(resources, "measure_all", lambda points, jobs: [(point, Resources(1, 8, 1, "spills"))])
    assert resources.main([]) == 0


def test_a_compiler_that_dies_is_a_verdict(monkeypatch):
    monkeypatch.setattr(resources, "measure", lambda point: os.abort())
    ((_, cost),) = resources.measure_all([Point(90, 64, "fp16", TILE, True)], 1)
    assert cost.verdict == "does not compile"
