"""The tables that `analyze_io.py` prints."""

from __future__ import annotations

from io_analysis.report import IoReport, Measured, Problem, longest, tensor_busy
from speed.show import shape

_MB = 1e-6
_WORST = 3


def print_problems(report: IoReport) -> None:
    """Print theory and what was measured; bytes in MB."""
    words = (f"{name} {report.machine[name]}" for name in ("torch", "triton", "commit") if name in report.machine)
    print(", ".join((report.machine["device"], *words)))
    print("Bytes in MB, read and written: what DRAM must move, what the tiles ask of L2; measured, and x theory.")
    print("A tile is queries x keys; ! loads whole tiles.\n")
    for problem in report.problems:
        print(f"{shape(problem.row)}  {problem.provider:14} {_theory(problem)}")
        if problem.measured is not None:
            print(f"{'':20}{_counts(problem, problem.measured)}")
            print(f"{'':20}{_kernel(problem.measured)}")


def _theory(problem: Problem) -> str:
    said = f"DRAM at least {_MB * problem.least.total:.0f}"
    if problem.written is not None:
        return f"{said} by Algorithm 0, {_MB * problem.written.total:.0f} as our naive provider does it"
    if problem.asked is None:
        return said
    return f"{said}; of L2 {_MB * problem.asked.total:.0f} by tiles of {problem.tile}"


def _counts(problem: Problem, found: Measured) -> str:
    dram = _ratio("DRAM", found.dram, problem.dram_ratio)
    return f"{dram}; {_ratio('L2 and SMs', found.sm, problem.l2_ratio)}; {_rate(problem, found)}"


def _kernel(found: Measured) -> str:
    """The longest kernel of a call."""
    kernel, busy = longest(found), tensor_busy(found)
    stalls = ", ".join(f"{name} {warps:.2f}" for name, warps in list(kernel["stalls"].items())[:_WORST])
    said = f"tensor pipe {_known(busy, '.0f')} %, occupancy {_known(kernel['occupancy_percent'], '.0f')} %"
    size = f"{_known(kernel['registers'], '.0f')} registers, {_known(kernel['shared_bytes'], ',.0f')} shared bytes"
    return f"{len(found.kernels)} kernels; the longest: {said}, {size}; warps stalled: {stalls or 'unknown'}"


def _ratio(name: str, measured: float | None, ratio: float | None) -> str:
    if measured is None:
        return f"{name} unknown"
    return f"{name} {_MB * measured:.0f}{'' if ratio is None else f' ({ratio:.2f}x)'}"


def _rate(problem: Problem, found: Measured) -> str:
    if not found.seconds:
        return "time unknown"
    return f"{1e6 * found.seconds:.0f} us, {problem.row.flops / found.seconds * 1e-12:.0f} TFLOP/s"


def _known(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)
