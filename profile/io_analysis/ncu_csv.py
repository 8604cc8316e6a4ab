"""Reads what `ncu --import REPORT --csv --page raw` prints: a kernel a line, a metric a column, with a line of units.

    "ID","Process ID",...,"Kernel Name",...,"dram__bytes_read.sum",...
    "","",...,"","byte",...
    "0","4711",...,"_forward",...,"33,554,432",...

Numbers have thousands separators and come in the unit of their column; here all are bytes, seconds or plain. What a
kernel was launched for is in the column of NVTX ranges, as `ranged` names it.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass

from speed.rows import Row

NAME = "Kernel Name"
_FIRST = "ID"
_RANGED = re.compile(r"flashattest_\w+")
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)(?<!_not_issued)_per_issue_active(?:\.ratio)?")
_SCALES = {
    **{"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12},
    **{"second": 1.0, "s": 1.0, "msecond": 1e-3, "ms": 1e-3, "usecond": 1e-6, "us": 1e-6, "nsecond": 1e-9, "ns": 1e-9},
    **{"byte/block": 1.0, "Kbyte/block": 1e3, "hz": 1.0, "Khz": 1e3, "Mhz": 1e6, "Ghz": 1e9},
    **{"cycle/second": 1.0, "cycle/nsecond": 1e9, "cycle/usecond": 1e6, "cycle/msecond": 1e3},
}


@dataclass(frozen=True)
class Kernel:
    """A kernel that ran under ncu: its name, the range that it was launched in, and its metrics, those that ncu had."""

    name: str
    range: str | None
    metrics: dict[str, float]

    def stalls(self) -> dict[str, float]:
        """Warps that wait for each reason, for each instruction issued; the worst first. To be selected is no wait."""
        found = {match[1]: value for key, value in self.metrics.items() if (match := _STALL.fullmatch(key))}
        waits = [(name, value) for name, value in found.items() if name != "selected"]
        return dict(sorted(waits, key=lambda item: -item[1]))


def ranged(provider: str, row: Row) -> str:
    """The name of the NVTX range around a provider's call on a row; a forward's is without the pass."""
    words = (f"{name}{value}" for name, value in vars(row).items() if value != "forward")
    return re.sub(r"\W", "_", "_".join(("flashattest", provider, *words)))


def read(text: str) -> list[Kernel]:
    """The kernels of a CSV, in the order of their launch. ValueError, in one sentence, where it has none."""
    lines = [line for line in csv.reader(text.splitlines()) if line]
    heads = [number for number, line in enumerate(lines) if line[0] == _FIRST]
    if not heads:
        said = next((" ".join(line) for line in lines if line[0].startswith("==ERROR==")), "no line begins with ID")
        raise ValueError(f"It is no CSV of ncu's raw page: {said}.")
    head, rest = lines[heads[0]], lines[heads[0] + 1 :]
    if NAME not in head:
        raise ValueError(f"It is no CSV of ncu's raw page: its columns lack {NAME!r}.")
    rows = [line for line in rest if len(line) == len(head)]
    units = rows.pop(0) if rows and not rows[0][0] else [""] * len(head)
    return [_kernel(head, units, row) for row in rows]


def _kernel(head: list[str], units: list[str], row: list[str]) -> Kernel:
    cells = dict(zip(head, row, strict=True))
    found = next((match for cell in row if (match := _RANGED.search(cell))), None)
    metrics = {
        name: number * _scale(unit)
        for name, unit, cell in zip(head, units, row, strict=True)
        if "__" in name and (number := _number(cell)) is not None
    }
    return Kernel(cells[NAME], found[0] if found else None, metrics)


def _scale(unit: str) -> float:
    return _SCALES.get(unit.strip(), 1.0)


def _number(cell: str) -> float | None:
    """The number in a cell; None for what ncu has not ("n/a") and for words."""
    try:
        return float(cell.replace(",", "").split(" ")[0])
    except ValueError:
        return None
