"""Runs calls under Nsight Compute: which metrics, the command, and the kernels that come back.

Only what runs between the profiler's start and stop is profiled (`ncu_target.py`), each kernel some times over with
the caches flushed, once for each group of counters. `--clock-control none`: ncu would fix the clocks otherwise, and the
device is measured as it is found.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from io_analysis.ncu_csv import Kernel, read
from speed.rows import Row

TARGET = Path(__file__).parents[1] / "ncu_target.py"

TIME = "gpu__time_duration.sum"
DRAM_READ, DRAM_WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"
SM_READ, SM_WRITE = "l1tex__m_xbar2l1tex_read_bytes.sum", "l1tex__m_l1tex2xbar_write_bytes.sum"
"""What the SMs get from L2 and send to it: of loads through L1 and of the bulk copy engine (TMA)."""
REGISTERS = "launch__registers_per_thread"
_OF_BLOCK = "launch__shared_mem_per_block"
SHARED = (_OF_BLOCK, f"{_OF_BLOCK}_allocated", f"{_OF_BLOCK}_dynamic")
"""By the first of these names that ncu has."""
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"

METRICS = (
    *(TIME, DRAM_READ, DRAM_WRITE, SM_READ, SM_WRITE, OCCUPANCY, TENSOR),
    *("lts__t_bytes.sum", "lts__t_sectors.sum", "lts__t_sector_hit_rate.pct"),
    *("lts__t_sectors_op_read.sum", "lts__t_sectors_op_write.sum"),
    *("lts__t_sectors_srcunit_tex_op_read.sum", "lts__t_sectors_srcunit_tex_op_read_lookup_hit.sum"),
    *("l1tex__t_bytes.sum", "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"),
    *("sm__inst_executed_pipe_tensor.sum", "sm__inst_executed_pipe_tensor_op_hmma.sum"),
    *(
        "sm__inst_executed_pipe_tensor_op_gmma.sum",
        "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active",
    ),
    *("smsp__inst_executed.sum", "smsp__issue_active.avg.pct_of_peak_sustained_active"),
    *("sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active", "sm__cycles_elapsed.max"),
    *("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", "lts__throughput.avg.pct_of_peak_sustained_elapsed"),
    "gpc__cycles_elapsed.avg.per_second",
)
"""Beside the sections: names that the chip does not have are left out before ncu is run."""
SECTIONS = ("LaunchStats", "Occupancy", "WarpStateStats")


def find_ncu(asked: str | None = None) -> str | None:
    """The ncu asked for, or the one on the path; None if it is missing."""
    return shutil.which(asked or "ncu")


def profile(ncu: str, calls: list[tuple[Row, str]], report: Path, timeout: float) -> str:
    """Profile a call for each row and provider, and return ncu's raw CSV. RuntimeError in one sentence if it fails."""
    target = [sys.executable, str(TARGET), json.dumps([[asdict(row), name] for row, name in calls])]
    _said([*command(ncu, known(ncu), report), *target], timeout)
    return _said([ncu, "--import", f"{report}.ncu-rep", "--csv", "--page", "raw", "--print-units", "base"], timeout)


def command(ncu: str, metrics: tuple[str, ...], report: Path) -> list[str]:
    """The command that profiles what follows it, into `report`.ncu-rep."""
    sections = [word for section in SECTIONS for word in ("--section", section)]
    return [
        *(ncu, "--clock-control", "none", "--cache-control", "all", "--profile-from-start", "off", "--nvtx"),
        *("--target-processes", "application-only", "--metrics", ",".join(metrics), *sections),
        *("--force-overwrite", "--export", str(report)),
    ]


def known(ncu: str) -> tuple[str, ...]:
    """Those of METRICS that this chip has; all where ncu does not say."""
    try:
        said = subprocess.run([ncu, "--query-metrics"], capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return METRICS
    names = {line.split()[0] for line in said.splitlines() if line.split()}
    return tuple(metric for metric in METRICS if metric.split(".")[0] in names) or METRICS


def kernels(text: str) -> list[Kernel]:
    """The kernels that were launched for a call. ValueError where no line says for which."""
    found = [kernel for kernel in read(text) if kernel.range is not None]
    if not found:
        raise ValueError("No kernel in ncu's CSV says which call it belongs to: it was taken without --nvtx.")
    return found


def _said(words: list[str], timeout: float) -> str:
    path = os.pathsep.join(part for part in (str(TARGET.parents[1]), os.environ.get("PYTHONPATH")) if part)
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"ncu had not ended after {timeout:.0f} s: give it more time or fewer problems.") from None
    if done.returncode:
        raise RuntimeError(f"ncu ended with {done.returncode}: {_last_words(done)}.")
    return done.stdout


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    return " / ".join((errors or lines)[-2:]) or "it said nothing"
