"""Prints what `run_benchmark.py` kept as JSON: its tables, and ours against each other provider over all their rows.

    python benchmark/show_results.py benchmark/results/peers_fp16.json [more.json ...]

The ratios are of speed, above 1 where ours is faster. Exit code 2: a file could not be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speed.results import Results, from_json
from speed.show import head, line, summary, told


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON of run_benchmark.py")
    for file in parser.parse_args(arguments).files:
        try:
            results = from_json(file.read_text())
        except (OSError, ValueError, TypeError, KeyError) as problem:
            print(f"show_results: {file} cannot be read: {problem}", file=sys.stderr)
            return 2
        _show(file, results)
    return 0


def _show(file: Path, results: Results) -> None:
    machine = results.machine
    print(f"{file}: {machine['device']}, torch {machine['torch']}, triton {machine['triton']}, {machine['commit']}")
    for preset in dict.fromkeys(timed.preset for timed in results.timed):
        timed = results.of(preset)
        names = [name for name in results.labels if any(name == o.provider for t in timed for o in t.outcomes)]
        host = any(outcome.host_ms for t in timed for outcome in t.outcomes)
        print(f"\n{preset}\n{head(names, host)}")
        for each in timed:
            print(line(each, names, results.ours, host))
        for said in summary(timed, results.ours):
            print(said)
    for said in told(results):
        print(said)


if __name__ == "__main__":
    sys.exit(main())
