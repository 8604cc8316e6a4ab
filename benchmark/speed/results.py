"""What a run measured, and the files that keep it: JSON whole, CSV a line for each row and provider."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.io.files import write_whole
from speed.ceilings import Ceilings
from speed.rows import Row
from speed.turns import Spread

FORMAT = 1
OK = "ok"


@dataclass(frozen=True)
class Outcome:
    """The outcome of one provider on one row.

    status: "ok", "refused", "too large", "out of memory", "failed" or "wrong"; only what is ok was timed. why: one
    line. error: the largest error/budget (`speed.judge`). ms: milliseconds a call. host_ms: milliseconds of the host
    to enqueue one. peak_bytes: what a call holds above its inputs, of a backward row its forward with it. share:
    tflops over those of the measured matrix product.
    """

    provider: str
    status: str = OK
    why: str = ""
    error: float | None = None
    ms: Spread | None = None
    host_ms: Spread | None = None
    peak_bytes: int | None = None
    tflops: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Timed:
    """A row of a preset, and the outcome of each provider on it."""

    preset: str
    row: Row
    outcomes: tuple[Outcome, ...]

    def ok(self) -> dict[str, Outcome]:
        """The outcomes that were timed, by provider."""
        return {outcome.provider: outcome for outcome in self.outcomes if outcome.status == OK}


@dataclass
class Results:
    """A run: machine, settings, ceilings, providers' labels, those that are ours, and the rows so far."""

    machine: dict[str, str]
    settings: dict[str, Any]
    ceilings: Ceilings
    labels: dict[str, str]
    ours: tuple[str, ...]
    absent: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    timed: list[Timed] = field(default_factory=list)

    def of(self, *presets: str) -> list[Timed]:
        """The rows of these presets."""
        return [timed for timed in self.timed if timed.preset in presets]


def to_json(results: Results) -> str:
    """The file's text. What is infinite (an error) is a string there: JSON has no number for it."""
    data = {"format": FORMAT, **asdict(results)}
    for timed, kept in zip(data["timed"], results.timed, strict=True):
        timed["flops"] = kept.row.flops
    return json.dumps(_finite(data), indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Results:
    """Read what `to_json` wrote. ValueError, in one sentence, for anything else."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError(f"It is no file of run_benchmark.py of format {FORMAT}.")
    timed = [_timed(each) for each in data.pop("timed")]
    ceilings, ours = Ceilings(**data.pop("ceilings")), tuple(data.pop("ours"))
    return Results(**data, ceilings=ceilings, ours=ours, timed=timed)


def write(results: Results, json_file: Path | None, csv_file: Path | None) -> None:
    """Write the files that are asked for, each whole."""
    for path, text in ((json_file, to_json(results)), (csv_file, to_csv(results))):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text.encode())


def to_csv(results: Results) -> str:
    """A line for each row and provider; every line says its device, versions, commit and command."""
    lines = [{**line, **results.machine} for line in _lines(results)]
    out = io.StringIO()
    if lines:
        writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return out.getvalue()


def _lines(results: Results) -> Iterator[dict[str, Any]]:
    for timed in results.timed:
        for outcome in timed.outcomes:
            flat = asdict(outcome)
            spreads = {name: flat.pop(name) or {} for name in ("ms", "host_ms")}
            for name, spread in spreads.items():
                flat |= {f"{name}_{key}": spread.get(key) for key in ("median", "q1", "q3", "samples")}
            yield {"preset": timed.preset, **asdict(timed.row), "flops": timed.row.flops, **flat}


def _timed(data: dict[str, Any]) -> Timed:
    row = Row(**data["row"])
    return Timed(data["preset"], row, tuple(_outcome(each) for each in data["outcomes"]))


def _outcome(data: dict[str, Any]) -> Outcome:
    spreads = {name: data[name] and Spread(**data[name]) for name in ("ms", "host_ms")}
    error = None if data["error"] is None else float(data["error"])
    return Outcome(**{**data, **spreads, "error": error})


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return str(data) if isinstance(data, float) and (data != data or abs(data) == float("inf")) else data
