"""Time attention providers in turns: ours, torch's SDPA by backend, FlexAttention, flash-attn where installed.

    python benchmark/run_benchmark.py                                    # the table of peers, bf16 and fp16
    python benchmark/run_benchmark.py --preset peers padding gqa memory causal launch --json r.json --csv r.csv
    python benchmark/run_benchmark.py --preset peers --dtype bf16 --time 100 --jobs 8
    python benchmark/run_benchmark.py --N 2048 8192 --d 64 128 --causal no yes --gqa 1 8 --padding 0 0.5 --batch 2
    python benchmark/run_benchmark.py --preset backward --d 64 128 --jobs 8        # gradients
    python benchmark/run_benchmark.py --preset fa2 --providers sdpa_flash ours ours:config=128x128x8x2
    python benchmark/run_benchmark.py --quick                            # seconds, anywhere, and says nothing of speed

On a row, each provider is first judged by error/budget against float64 (`speed/judge.py`); one that is wrong, fails or
refuses is reported and not timed. The others take turns in several rounds; the JSON has error/budget, medians,
quartiles and each round's median.
On CUDA a time is the device's, between events, with a cold L2 cache; a causal row counts half the FLOPs, padding only
the keys that are seen. A backward row times `torch.autograd.grad` of O for q, k and v, through one forward again and
again; it counts 2.5 times the FLOPs of the forward, and its memory is that of a forward and its backward. Exit code 1:
one of ours was wrong or failed. 2: it could not run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from harness.errors import CannotRun
from harness.running.devices import choose, prepare
from speed.ceilings import measure_ceilings
from speed.clock import clock_of
from speed.machine import describe
from speed.measure import Bench, measure_row
from speed.presets import FUSED, PRESETS
from speed.providers import PROVIDERS, Provider, named
from speed.results import Results, write
from speed.rows import DTYPES, PASSES, Row
from speed.show import head, line, not_timed
from speed.turns import Schedule
from speed.warm import compile_ahead


@dataclass(frozen=True)
class Work:
    """Rows of one preset, the names of their providers, and whether the host's time is asked for."""

    preset: str
    rows: list[Row]
    providers: list[str]
    host: bool


def main(arguments: list[str] | None = None) -> int:
    begun, asked = time.monotonic(), _arguments(arguments)
    console = Console(highlight=False, soft_wrap=True)
    try:
        device = choose(asked.device)
        prepare(device)
        works = _works(asked)
        results = _begin(asked, device, works)
    except (CannotRun, ValueError, KeyError) as problem:
        print(f"run_benchmark: {problem.args[0]}", file=sys.stderr)
        return 2
    _run(asked, works, results, device, console, begun)
    write(results, asked.json, asked.csv)
    for reason in not_timed(results):
        console.print(reason, markup=False)
    bad = ("wrong", "failed")
    return int(any(o.status in bad and o.provider in results.ours for timed in results.timed for o in timed.outcomes))


def _works(asked: argparse.Namespace) -> list[Work]:
    """The presets asked for, filtered by --N, --d and so on; without a preset, the grid that these span."""
    if not asked.preset:
        return [Work("grid", _grid(asked), asked.providers or list(FUSED), asked.host)]
    works = []
    for preset in (PRESETS[name] for name in asked.preset):
        rows = [row for row in preset.rows(asked.dtype or ()) if _is_asked(row, asked)]
        works.append(Work(preset.name, rows, asked.providers or list(preset.providers), preset.host or asked.host))
    if not any(work.rows for work in works):
        raise ValueError("No row of the presets is left by --N, --d and the like: leave one of them out.")
    return works


def _is_asked(row: Row, asked: argparse.Namespace) -> bool:
    wanted = ((asked.N, row.N), (asked.d, row.d), (asked.causal, row.causal), (asked.padding, row.padding))
    more = ((asked.gqa, row.group), (asked.direction, row.direction))
    return all(not values or value in values for values, value in (*wanted, *more))


def _grid(asked: argparse.Namespace) -> list[Row]:
    shapes = product(asked.dtype or ["bf16"], asked.d or [128], asked.N or [4096], asked.causal or [False])
    groups = asked.gqa or [1]
    if any(asked.heads % group for group in groups):
        raise ValueError(f"--gqa must divide --heads, got {groups} and {asked.heads}.")
    Hks, passes = [asked.heads // group for group in groups], asked.direction or ["forward"]
    rest = list(product(asked.padding or [0.0], Hks, asked.batch or [1], passes))
    return [
        Row(N=N, d=d, B=B, Hq=asked.heads, Hk=Hk, dtype=dtype, causal=causal, padding=padding, direction=direction)
        for dtype, d, N, causal in shapes
        for padding, Hk, B, direction in rest
    ]


def _begin(asked: argparse.Namespace, device: str, works: list[Work]) -> Results:
    """Compile ahead with --jobs, and measure the ceilings."""
    providers = [named(name) for name in dict.fromkeys(name for work in works for name in work.providers)]
    absent = {p.name: why for p in providers if (why := p.absent(device)) is not None}
    if asked.jobs > 1:
        calls = ((name, row) for work in works for row in work.rows for name in work.providers)
        compile_ahead(((name, row) for name, row in calls if name not in absent), device, asked.jobs)
    dtypes = list(dict.fromkeys(row.dtype for work in works for row in work.rows))
    return Results(
        machine=describe(device),
        settings={"rounds": asked.rounds, "milliseconds": asked.milliseconds, "seed": asked.seed, "quick": asked.quick},
        ceilings=measure_ceilings(device, dtypes, clock_of(device)),
        labels={p.name: p.label for p in providers if p.name not in absent},
        ours=tuple(p.name for p in providers if p.ours),
        absent=absent,
    )


def _run(
    asked: argparse.Namespace, works: list[Work], results: Results, device: str, console: Console, begun: float
) -> None:
    schedule = Schedule(asked.rounds, asked.milliseconds)
    bench = Bench(device, clock_of(device), schedule, results.ceilings, asked.seed)
    _print_ceilings(results, console)
    columns = (TextColumn("{task.completed}/{task.total} rows  {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=sum(len(work.rows) for work in works))
        for work in works:
            providers = [named(name) for name in work.providers if name not in results.absent]
            console.print(f"\n{work.preset}\n{head([p.name for p in providers], work.host)}", markup=False)
            for row in work.rows:
                progress.update(task, advance=1, description=f"{work.preset} N {row.N} d {row.d}")
                if asked.time is not None and time.monotonic() - begun > asked.time:
                    results.left_out.append(f"Left out for want of time: {work.preset}, {row}.")
                    continue
                _one(work, row, providers, replace(bench, host=work.host), results, console)
                results.settings["seconds"] = round(time.monotonic() - begun, 1)
                write(results, asked.json, asked.csv)


def _one(work: Work, row: Row, providers: list[Provider], bench: Bench, results: Results, console: Console) -> None:
    """Measure a row. If it fails as a whole (the device failed, say), report that and go on with the next one."""
    try:
        timed = measure_row(work.preset, row, providers, bench)
    except RuntimeError as problem:
        results.left_out.append(f"Left out, since it failed as a whole: {work.preset}, {row}: {problem}.")
        console.print(results.left_out[-1], markup=False)
        return
    results.timed.append(timed)
    console.print(line(timed, [p.name for p in providers], results.ours, bench.host), markup=False)


def _print_ceilings(results: Results, console: Console) -> None:
    machine, ceilings = results.machine, results.ceilings
    versions = f"torch {machine['torch']}, triton {machine['triton']}, commit {machine['commit']}"
    products = ", ".join(f"{dtype} {rate:.3g} TFLOP/s" for dtype, rate in ceilings.matmul.items())
    console.print(f"{machine['device']}, {versions}", markup=False)
    console.print(f"matrix product {products}; copy {ceilings.copy:.3g} GB/s", markup=False)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    presets = ", ".join(f"{name} ({preset.about.rstrip('.')})" for name, preset in PRESETS.items())
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=[], metavar="NAME", help=presets)
    add = _adder(parser)
    add("--N", int, "tokens")
    add("--d", int, "head dims")
    add("--dtype", str, "fp16, bf16, fp32", choices=DTYPES)
    add("--causal", _yes, "yes, no")
    add("--padding", float, "shares of the keys that are padding")
    add("--gqa", int, "heads of Q to one of K and V")
    add("--batch", int, "batch sizes, of a grid")
    add("--direction", str, ", ".join(PASSES), choices=PASSES)
    parser.add_argument("--heads", type=int, default=16, help="heads of Q, of a grid")
    parser.add_argument("--providers", nargs="+", metavar="NAME", help=f"{', '.join(PROVIDERS)}, or ours:KEY=VALUE,...")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each provider takes on a row")
    parser.add_argument("--milliseconds", type=float, default=100.0, help="of timed calls, for a provider on a row")
    parser.add_argument("--time", type=float, help="seconds of the whole run after which no row is begun")
    parser.add_argument("--jobs", type=int, default=1, help="processes that compile ahead")
    parser.add_argument("--host", action="store_true", help="time enqueueing too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--quick", action="store_true", help="the preset quick, in a round or two")
    asked = parser.parse_args(arguments)
    _settle(asked)
    return asked


def _settle(asked: argparse.Namespace) -> None:
    spans = (asked.N, asked.d, asked.causal, asked.padding, asked.gqa, asked.batch, asked.direction)
    if asked.quick:
        asked.preset, asked.rounds, asked.milliseconds = asked.preset or ["quick"], 2, 2.0
    elif not asked.preset and not any(spans):
        asked.preset = ["peers"]


def _adder(parser: argparse.ArgumentParser) -> Callable[..., None]:
    def add(name: str, kind: Callable[[str], object], what: str, **more: object) -> None:
        parser.add_argument(name, type=kind, nargs="+", metavar=name.lstrip("-"), help=what, **more)  # type: ignore[arg-type]

    return add


def _yes(word: str) -> bool:
    if word not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"must be yes or no, got {word!r}")
    return word == "yes"


if __name__ == "__main__":
    sys.exit(main())
