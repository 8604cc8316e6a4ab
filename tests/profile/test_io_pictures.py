"""The pictures of bytes and of the roofline, from an analysis that was never measured."""

from dataclasses import replace

import pytest

import analyze_io
from io_analysis.bytes_picture import moved
from io_analysis.report import IoReport, Measured, in_theory, to_json
from io_analysis.roofline import roofline
from io_analysis.traffic import Tile
from speed.ceilings import Ceilings
from speed.presets import OURS, PRESETS
from speed.providers import PROVIDERS
from tests.benchmark.synthetic import CEILING, MACHINE, share, words, words_over_one_another


def io_report(measured=True):
    """An analysis of the preset io, with counts a little past theory."""
    report = IoReport(MACHINE, {name: PROVIDERS[name].label for name in PRESETS["io"].providers}, OURS)
    report.ceilings = Ceilings({"bf16": CEILING}, 3000.0) if measured else None
    for row in PRESETS["io"].rows():
        for name in PRESETS["io"].providers:
            problem = in_theory(name, row, Tile(128, 64) if name in OURS else None)
            report.problems.append(replace(problem, measured=counts(problem)) if measured else problem)
    return report


def counts(problem):
    bytes_of_dram, asked = problem.expected, problem.asked or problem.expected
    seconds = problem.row.flops / (CEILING * 1e12 * share(problem.provider, problem.row))
    kernel = {"name": "_forward", "seconds": seconds, "registers": 168.0, "shared_bytes": 131072.0}
    kernel |= {"occupancy_percent": 12.0, "tensor_percent": 70.0, "stalls": {"gmma": 2.0}, "metrics": {}}
    read, written = 1.04 * bytes_of_dram.read, 1.01 * bytes_of_dram.written
    return Measured(read, written, 1.02 * asked.read, asked.written, seconds, [kernel])


@pytest.mark.parametrize("draw", [moved, roofline])
def test_a_picture_names_its_device_and_no_words_lie_over_one_another(draw):
    pytest.importorskip("matplotlib")
    figure = draw(io_report())
    assert "Imagined GPU · torch 2.11.0 · triton 3.6.0" in " ".join(said for said, _ in words(figure))
    assert words_over_one_another(figure) == []


def test_theory_alone_has_no_roofline():
    pytest.importorskip("matplotlib")
    assert moved(io_report(measured=False)) is not None
    assert roofline(io_report(measured=False)) is None


def test_a_kept_report_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "io.json").write_text(to_json(io_report()))
    assert analyze_io.main(["--read", str(tmp_path / "io.json"), "--plot", str(tmp_path / "plots")]) == 0
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"io", "roofline"}
