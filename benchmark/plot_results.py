"""Draw what `run_benchmark.py` kept as JSON.

    python benchmark/plot_results.py results.json [more.json ...] --out plots

TFLOP/s against N for each d and mask, ours against the fastest other and FlashAttention-2, heads that share K and V,
memory against N, what early exit saves, launch overhead. A picture whose rows were not measured is left out. Several
files of one device are drawn together; of a row in two of them, the last. Needs matplotlib
(pip install 'flashattest[plot]'). Exit code 2: it could not run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speed import results
from speed.pictures import pictures, save_all


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON of run_benchmark.py")
    parser.add_argument("--out", type=Path, default=Path("plots"))
    asked = parser.parse_args(arguments)
    try:
        run = merged([read(file) for file in asked.files])
    except (OSError, ValueError) as problem:
        print(f"plot_results: {problem}", file=sys.stderr)
        return 2
    return save_all(pictures(run), asked.out)


def read(file: Path) -> results.Results:
    """The run that a file holds. OSError, or ValueError that names the file, where it cannot be read."""
    try:
        return results.from_json(file.read_text())
    except (ValueError, TypeError, KeyError) as problem:
        raise ValueError(f"{file} cannot be read: {problem}") from problem


def merged(runs: list[results.Results]) -> results.Results:
    """One run of several: their rows together. ValueError where they are not of one device."""
    first, *others = runs
    for other in others:
        if other.machine["device"] != first.machine["device"]:
            raise ValueError(f"One device a picture: got {first.machine['device']} and {other.machine['device']}.")
        first.timed += other.timed
        first.labels |= other.labels
        first.ours = tuple(dict.fromkeys((*first.ours, *other.ours)))
        first.ceilings.matmul.update(other.ceilings.matmul)
    said = {name: dict.fromkeys(run.machine.get(name, "unknown") for run in runs) for name in ("commit", "date")}
    first.machine = first.machine | {name: " and ".join(words) for name, words in said.items() if name in first.machine}
    first.settings["rounds"] = " or ".join(sorted({str(run.settings.get("rounds")) for run in runs}))
    return first


if __name__ == "__main__":
    sys.exit(main())
