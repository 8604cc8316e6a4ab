"""Print the JSON of `run_benchmark.py`: its tables, and ours against each other provider over all their rows.

    python benchmark/show_results.py benchmark/results/peers_fp16.json [more.json ...]
    python benchmark/show_results.py benchmark/results/peers_bf16.json --markdown sdpa_flash sdpa_cudnn ours

The ratios are of speed, above 1 where ours is faster. Exit code 2: a file could not be read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speed.markdown import table
from speed.results import Results, from_json
from speed.show import head, line, not_timed, summary


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON of run_benchmark.py")
    parser.add_argument("--markdown", nargs="*", metavar="NAME", help="tables in Markdown, of these providers or all")
    asked = parser.parse_args(arguments)
    for file in asked.files:
        try:
            results = from_json(file.read_text())
        except (OSError, ValueError, TypeError, KeyError) as problem:
            print(f"show_results: {file} cannot be read: {problem}", file=sys.stderr)
            return 2
        if asked.markdown is None:
            _show(file, results)
        else:
            _print_markdown(results, asked.markdown)
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
    for said in not_timed(results):
        print(said)


def _print_markdown(results: Results, names: list[str]) -> None:
    for preset in dict.fromkeys(timed.preset for timed in results.timed):
        print("\n".join(table(results, preset, [name for name in names if name in results.labels])))
        print()


if __name__ == "__main__":
    sys.exit(main())
