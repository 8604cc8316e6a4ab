"""Theory and measurement: the bytes of each problem by each provider, what ncu saw of it, and the file of both."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from io_analysis.ncu_command import DRAM_READ, DRAM_WRITE, OCCUPANCY, REGISTERS, SHARED, SM_READ, SM_WRITE, TENSOR, TIME
from io_analysis.ncu_csv import Kernel
from io_analysis.traffic import Tile, Traffic, asked, least, naive, written_steps
from speed.ceilings import Ceilings
from speed.rows import Row

FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """What ncu counted of a call, summed over its kernels: bytes of DRAM and between L2 and the SMs, and seconds.

    A counter that the chip does not have is None. kernels: name, seconds, registers, shared bytes of a block, occupancy
    and tensor pipe in percent, stalls, and all metrics as ncu names them.
    """

    dram_read: float | None
    dram_written: float | None
    sm_read: float | None
    sm_written: float | None
    seconds: float | None
    kernels: list[dict[str, Any]]

    @property
    def dram(self) -> float | None:
        """Bytes read from and written to DRAM."""
        return _plus(self.dram_read, self.dram_written)

    @property
    def sm(self) -> float | None:
        """Bytes between L2 and the SMs."""
        return _plus(self.sm_read, self.sm_written)


@dataclass(frozen=True)
class Problem:
    """A provider on a row: what DRAM must move (Algorithm 0 for naive), what its programs ask of L2, and what ncu saw.

    written: of naive alone, what our naive provider moves in all. tile: None where it is not known.
    """

    provider: str
    row: Row
    least: Traffic
    written: Traffic | None = None
    tile: str | None = None
    asked: Traffic | None = None
    measured: Measured | None = None

    @property
    def expected(self) -> Traffic:
        """What DRAM should see: for naive attention all the steps that ours takes."""
        return self.written or self.least

    @property
    def dram_ratio(self) -> float | None:
        """Measured bytes of DRAM over the expected ones."""
        return _over(self.measured.dram, self.expected.total) if self.measured else None

    @property
    def l2_ratio(self) -> float | None:
        """Measured bytes between L2 and the SMs over those that the tiles ask for."""
        return _over(self.measured.sm, self.asked.total) if self.measured and self.asked else None


@dataclass
class IoReport:
    """All problems of a run, with the machine, and the ceilings where there was a device to measure them on."""

    machine: dict[str, str]
    labels: dict[str, str]
    ours: tuple[str, ...]
    ceilings: Ceilings | None = None
    problems: list[Problem] = field(default_factory=list)


def in_theory(provider: str, row: Row, tile: Tile | None) -> Problem:
    """A problem before it is measured."""
    if provider == "naive":
        return Problem(provider, row, naive(row), written=sum(written_steps(row).values(), Traffic(0, 0)))
    if tile is None:
        return Problem(provider, row, least(row))
    return Problem(provider, row, least(row), tile=f"{tile}{'!' if tile.whole else ''}", asked=asked(row, tile))


def measured(kernels: Iterable[Kernel]) -> Measured:
    """The sum over the kernels of one call."""
    kept = list(kernels)
    return Measured(
        *(_sum(kept, DRAM_READ), _sum(kept, DRAM_WRITE), _sum(kept, SM_READ), _sum(kept, SM_WRITE), _sum(kept, TIME)),
        kernels=[_told(kernel) for kernel in kept],
    )


def longest(found: Measured) -> dict[str, Any]:
    """The kernel of a call that takes longest."""
    return max(found.kernels, key=lambda kernel: kernel["seconds"] or 0.0)


def tensor_busy(found: Measured) -> float | None:
    """Percent of the time of a call in which the tensor cores work, by the kernels' times."""
    known = [
        (k["tensor_percent"], k["seconds"]) for k in found.kernels if None not in (k["tensor_percent"], k["seconds"])
    ]
    whole = sum(seconds for _, seconds in known)
    return sum(percent * seconds for percent, seconds in known) / whole if whole else None


def to_json(report: IoReport) -> str:
    """The file's text."""
    return json.dumps({"format": FORMAT, "kind": "io", **asdict(report)}, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> IoReport:
    """Read what `to_json` wrote. ValueError, in one sentence, for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or (data.pop("format", None), data.pop("kind", None)) != (FORMAT, "io"):
        raise ValueError(f"It is no file of analyze_io.py of format {FORMAT}.")
    kept = data.pop("ceilings")
    ceilings = Ceilings(**kept) if kept else None
    problems = [_problem(each) for each in data.pop("problems")]
    return IoReport(**{**data, "ours": tuple(data["ours"])}, ceilings=ceilings, problems=problems)


def _problem(data: dict[str, Any]) -> Problem:
    traffics = {name: data[name] and Traffic(**data[name]) for name in ("least", "written", "asked")}
    found = data["measured"] and Measured(**data["measured"])
    return Problem(data["provider"], Row(**data["row"]), tile=data["tile"], measured=found, **traffics)


def _told(kernel: Kernel) -> dict[str, Any]:
    get = kernel.metrics.get
    return {
        "name": kernel.name,
        "seconds": get(TIME),
        "registers": get(REGISTERS),
        "shared_bytes": next((kernel.metrics[name] for name in SHARED if name in kernel.metrics), None),
        "occupancy_percent": get(OCCUPANCY),
        "tensor_percent": get(TENSOR),
        "stalls": kernel.stalls(),
        "metrics": kernel.metrics,
    }


def _sum(kernels: list[Kernel], metric: str) -> float | None:
    found = [kernel.metrics[metric] for kernel in kernels if metric in kernel.metrics]
    return sum(found) if len(found) == len(kernels) and found else None


def _plus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _over(one: float | None, other: float) -> float | None:
    return None if one is None else one / other
