"""Ahead-of-time compilation with no GPU: the report, its verdicts, and what the compiler makes of the fast path."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kernel.hopper import backward as hopper_backward
from kernel.hopper import backward_fused
from kernel.hopper.forward import TILES
from kernel.tiles.config import TileConfig
from kernel.tools import hopper_ahead, resources
from kernel.tools.hopper_ahead import SPILLED, SPILLED_FUSED, VARIANTS
from kernel.tools.resources import BACKWARD_KV, BACKWARD_Q, FUSED, Point, Resources

from .compiled import ROOT, run_compiled

TILE = TileConfig(64, 32, 4, 2)

COUNT_COPIES = """
from kernel.tools.resources import Point, compile_kernel
from kernel.tiles.config import TileConfig
for fast in (True, False):
    ptx = compile_kernel(Point(90, 64, "fp16", TileConfig(64, 32, 4, 2), False), FAST=fast).asm["ptx"]
    print("wgmma.mma_async" in ptx, "ld.global.v4" in ptx, "cp.async.cg.shared.global" in ptx)
"""


def test_the_fast_path_copies_16_bytes_at_a_time_and_both_use_wgmma():
    done = run_compiled("-c", COUNT_COPIES)
    assert done.stdout.split("\n")[:2] == ["True True True", "True False False"], done.stderr


def test_the_report_of_a_default(tmp_path):
    table = tmp_path / "table.json"
    arguments = ("--arch", "90", "--d", "64", "--dtype", "fp16", "--defaults-only", "--json", str(table))
    done = run_compiled("-m", "kernel.tools.resources", *arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads(table.read_text())
    hopper = {"hopper", "hopper dK dV", "hopper dQ", FUSED}
    assert {row["path"] for row in rows} == {"portable", "decode", BACKWARD_KV, BACKWARD_Q} | hopper
    for row in rows:
        assert row["default"]
        assert row["verdict"] == "ok"
        allowed = SPILLED_FUSED if row["path"] == FUSED else SPILLED
        assert row["spilled"] <= (allowed if row["path"].startswith("hopper") else 0)
        assert 0 < row["registers"] <= 255
        assert row["shared"] > 0


def test_it_restarts_without_the_interpreter():
    arguments = ("-m", "kernel.tools.resources", "--arch", "90", "--d", "16", "--dtype", "fp16", "--defaults-only")
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


def points(*arguments):
    return resources._points(resources._parse([*arguments, "--defaults-only"]))


@pytest.mark.parametrize(
    ("path", "tiles"),
    [
        ("hopper", TILES),
        ("hopper dK dV", {d: {pair.kv for pair in pairs} for d, pairs in hopper_backward.TILES.items()}),
        ("hopper dQ", {d: {pair.q for pair in pairs} for d, pairs in hopper_backward.TILES.items()}),
        (FUSED, backward_fused.TILES),
    ],
)
def test_all_variants_of_all_tiles_of_the_hopper_paths_are_compiled(path, tiles):
    hopper = [point for point in points() if point.path == path]
    fp16 = {(point.d, point.tile, point.variant) for point in hopper if point.dtype == "fp16"}
    assert fp16 == {(d, tile, variant) for d, known in tiles.items() for tile in known for variant in VARIANTS}
    assert {point.d for point in hopper if point.dtype == "bf16"} == set(tiles)
    assert all(point.arch == 90 and point.default for point in hopper)
    assert len(set(points("--dtype", "fp16", "bf16"))) == len(points("--dtype", "fp16", "bf16"))


def test_the_hopper_path_is_left_out_where_it_does_not_run(monkeypatch):
    def has_hopper(*arguments):
        return any(point.path == "hopper" for point in points(*arguments))

    assert has_hopper()
    assert not has_hopper("--arch", "80", "100")
    assert not has_hopper("--dtype", "fp32")
    monkeypatch.setattr(hopper_ahead, "AVAILABLE", False)
    assert not has_hopper()


HOPPER = Point(90, 64, "fp16", TILES[64][0], True, "hopper", VARIANTS[0])
PORTABLE = Point(90, 64, "fp16", TILE, True)
SERIALIZED = "Potential Performance Loss: wgmma.mma_async instructions are serialized due to"


@pytest.mark.parametrize(
    ("point", "shared", "faults", "log", "spilled", "verdict"),
    [
        (HOPPER, 232_448, [], "", SPILLED, "ok"),
        (HOPPER, 232_448, [], "", SPILLED + 4, "spills"),
        (replace(HOPPER, path=FUSED), 232_448, [], "", SPILLED_FUSED, "ok"),
        (replace(HOPPER, path=FUSED), 232_448, [], "", SPILLED_FUSED + 4, "spills"),
        (PORTABLE, 232_448, [], "", 0, "ok"),
        (PORTABLE, 232_448, [], "", 4, "spills"),
        (HOPPER, 1, [], SERIALIZED, 4, "serialises wgmma"),
        (PORTABLE, 1, [], SERIALIZED, 0, "serialises wgmma"),
        (HOPPER, 1, ["UR4"], SERIALIZED, 0, "reads what nothing wrote"),
        (PORTABLE, 232_449, [], "", 0, "does not fit"),
        (HOPPER, 232_449, ["UR4"], SERIALIZED, 4096, "does not fit"),
    ],
)
def test_the_verdicts(point, shared, faults, log, spilled, verdict, monkeypatch):
    monkeypatch.setattr(resources, "disassemble", lambda cubin: "")
    monkeypatch.setattr(resources, "unwritten", lambda disassembly: faults)
    kernel = SimpleNamespace(metadata=SimpleNamespace(shared=shared), asm={"cubin": b""})
    assert resources._verdict(point, kernel, log, spilled) == verdict


def test_a_bad_tile_of_the_hopper_path_fails(monkeypatch, capsys):
    bad = Resources(1, 0, 1, "reads what nothing wrote")
    monkeypatch.setattr(resources, "measure_all", lambda points, jobs: [(HOPPER, bad)])
    assert resources.main(["--defaults-only"]) == 1
    assert "192x128x4x2 of sm_90, d 64, fp16 reads what nothing wrote" in capsys.readouterr().err
