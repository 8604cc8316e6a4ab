"""Bytes that attention moves: in theory (`io_analysis/traffic.py`), and as Nsight Compute counts them.

    python profile/analyze_io.py                                   # theory, and with ncu its counts
    python profile/analyze_io.py --json benchmark/results/io.json --plot plots
    python profile/analyze_io.py --d 128 --N 4096 --providers ours ours_portable ours:config=128x128x8x2
    python profile/analyze_io.py --read io.csv                     # ncu's CSV of an earlier run (--csv)
    python profile/analyze_io.py --read benchmark/results/io.json --plot plots   # a whole earlier run (--json)

Prints for each problem what DRAM must move at least, what the tiles ask of L2, and with ncu the measured bytes and
their ratio to theory, time, tensor pipe, occupancy, registers, shared memory and the three worst stalls. Without ncu
or a CUDA device it prints the theory and says so. Exit code 2: it could not run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.errors import CannotRun
from harness.io.files import write_whole
from harness.running.devices import choose, prepare
from io_analysis.ncu_command import find_ncu, kernels, profile
from io_analysis.ncu_csv import ranged
from io_analysis.report import IoReport, from_json, in_theory, measured, to_json
from io_analysis.show import print_problems
from io_analysis.tile import our_tile
from speed.ceilings import measure_ceilings
from speed.clock import clock_of
from speed.machine import describe
from speed.presets import PRESETS
from speed.providers import named
from speed.rows import DTYPES, Row

NAIVE_SCORES = 1 << 30
"""The most scores that naive attention is profiled with: ncu saves and restores what a kernel writes, for each pass."""


def main(arguments: list[str] | None = None) -> int:
    asked = _arguments(arguments)
    try:
        device = choose()
        prepare(device)
        report = _kept(asked)
        if report is None:
            report = _report(asked, device)
            _measure(asked, device, report)
    except (CannotRun, OSError, ValueError, KeyError, RuntimeError) as problem:
        print(f"analyze_io: {problem if isinstance(problem, OSError) else problem.args[0]}", file=sys.stderr)
        return 2
    print_problems(report)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(asked.json, to_json(report).encode())
    return _plotted(asked, report)


def _kept(asked: argparse.Namespace) -> IoReport | None:
    """The report of an earlier run, where --read names one."""
    is_json = asked.read is not None and asked.read.suffix == ".json"
    return from_json(asked.read.read_text()) if is_json else None


def _report(asked: argparse.Namespace, device: str) -> IoReport:
    """All problems in theory, and the ceilings of the device."""
    names = asked.providers or list(PRESETS["io"].providers)
    providers = [named(name) for name in names]
    labels, ours = {p.name: p.label for p in providers}, tuple(p.name for p in providers if p.ours)
    report = IoReport(describe(device), labels, ours)
    if device == "cuda" and asked.read is None:
        report.ceilings = measure_ceilings(device, [asked.dtype], clock_of(device))
    for row in _rows(asked):
        for p in providers:
            if p.name != "naive" or row.B * row.Hq * row.N * row.N <= NAIVE_SCORES:
                report.problems.append(in_theory(p.name, row, our_tile(row, p.config, device) if p.ours else None))
    return report


def _rows(asked: argparse.Namespace) -> list[Row]:
    rows = PRESETS["io"].rows([asked.dtype])
    rows = [row for row in rows if (not asked.d or row.d in asked.d) and (not asked.N or row.N in asked.N)]
    if not rows:
        raise ValueError("No problem has that d and N: leave --d or --N out.")
    return rows


def _measure(asked: argparse.Namespace, device: str, report: IoReport) -> None:
    """Add what ncu counted to each problem, if anything did."""
    text = _counted(asked, device, report)
    if text is None:
        return
    found = kernels(text)
    for index, problem in enumerate(report.problems):
        of_call = [kernel for kernel in found if kernel.range == ranged(problem.provider, problem.row)]
        if of_call:
            report.problems[index] = replace(problem, measured=measured(of_call))
        else:
            print(f"ncu saw no kernel of {problem.provider} on {problem.row}.")


def _counted(asked: argparse.Namespace, device: str, report: IoReport) -> str | None:
    """Ncu's CSV, of an earlier run or of a new one; None, with a message, where it cannot run."""
    if asked.read is not None:
        report.machine = {"device": f"the device of {asked.read}"}
        return str(asked.read.read_text())
    ncu = find_ncu(asked.ncu)
    if ncu is None or device != "cuda":
        missing = "CUDA device" if ncu else "ncu"
        print(f"Nothing is measured, since there is no {missing} here: what follows is theory.\n")
        return None
    with TemporaryDirectory() as folder:
        calls = [(problem.row, problem.provider) for problem in report.problems]
        text = profile(ncu, calls, Path(folder, "report"), asked.ncu_time)
    if asked.csv is not None:
        write_whole(asked.csv, text.encode())
    return text


def _plotted(asked: argparse.Namespace, report: IoReport) -> int:
    if asked.plot is None:
        return 0
    from io_analysis.bytes_picture import moved
    from io_analysis.roofline import roofline
    from speed.pictures import save_all

    return save_all(iter((("io", moved(report)), ("roofline", roofline(report)))), asked.plot)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d", type=int, nargs="+", help="of the problems, only those of these head dims")
    parser.add_argument("--N", type=int, nargs="+", help="of the problems, only those of these lengths")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--providers", nargs="+", metavar="NAME")
    parser.add_argument("--ncu", help="where ncu is, if not on the path")
    parser.add_argument("--ncu-time", type=float, default=300.0, help="seconds that ncu may take")
    parser.add_argument("--csv", type=Path, help="keep ncu's CSV here")
    parser.add_argument("--read", type=Path, metavar="FILE", help="an earlier CSV of these problems, or JSON; no ncu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the bytes and the roofline")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
