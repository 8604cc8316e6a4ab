"""The command `flashattest`. Exit code 0: nothing failed; 1: failures, saved; 2: it could not run, and says why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.cli import corpus as corpus_command
from harness.cli.sanitizer import TOOLS, run_under
from harness.errors import CannotRun

OPERATIONS = ("any", "forward", "forward_backward")
"""The values of `Subject.operation`, whose import takes a second."""

STOPPED = 130
"""Exit code after Ctrl-C, as a shell gives it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code."""
    asked = _parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        return int(asked.command(asked, console))
    except CannotRun as error:
        print(f"flashattest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flashattest: stopped.", file=sys.stderr)
        return STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("flashattest", description="Attests attention kernels.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    fuzz = _command(commands, "fuzz", _fuzz, "draw cases until the time is up, shrink and save what fails")
    fuzz.add_argument("--subject", help="module:function, file.py:function, or a name that ships", metavar="NAME")
    fuzz.add_argument(
        "--time", type=float, help="seconds, shrinking included (default 60, none where --cases is given)", metavar="S"
    )
    fuzz.add_argument("--cases", type=_positive, help="stop after so many cases", metavar="N")
    fuzz.add_argument("--seed", type=int, help="draw the same cases again; earlier examples are not read", metavar="N")
    ends = fuzz.add_mutually_exclusive_group()
    ends.add_argument("--max-failures", type=_positive, help="stop when N causes are found", metavar="N")
    ends.add_argument(
        "-x", dest="max_failures", action="store_const", const=1, help="stop at the first: --max-failures 1"
    )
    fuzz.add_argument("--jobs", type=_positive, help="campaigns side by side (default 1; a cluster's all)", metavar="N")
    fuzz.add_argument("--cluster", help="run them on this Ray cluster: HOST:PORT or auto", metavar="ADDRESS")
    fuzz.add_argument("--json", type=Path, help="write the outcome there too", metavar="FILE")
    fuzz.add_argument("--sanitizer", choices=TOOLS, help="run under compute-sanitizer, on CUDA")
    fuzz.add_argument("--operation", choices=OPERATIONS, default=OPERATIONS[0], help="ask for it alone (default any)")
    fuzz.add_argument("--refuses", help="exceptions that match are refusals, not failures", metavar="REGEX")

    replay = _command(commands, "replay", _replay, "run saved failures again: FIXED, FAILED, KNOWN or ERROR")
    replay.add_argument("entries", nargs="*", help="an id or a path (default: the whole corpus)", metavar="ID|PATH")
    replay.add_argument("--subject", help="run them on this subject, not on their own", metavar="NAME")

    recall = _command(commands, "recall", _run_of("recall"), "plant every known fault and say which are found")
    recall.add_argument("--time", type=float, default=60.0, help="seconds for each fault (default 60)", metavar="S")
    recall.add_argument("--faults", nargs="+", default=[], help="these alone (default: all)", metavar="ID")
    recall.add_argument("--operation", choices=OPERATIONS, default=OPERATIONS[0], help="its faults alone (default any)")
    recall.add_argument("--where", choices=("torch", "kernel", "process"), help="those built so alone")
    recall.add_argument("--seed", type=int, default=0, help="draw other cases (default 0)", metavar="N")
    recall.add_argument("--json", type=Path, help="write the outcome there too", metavar="FILE")
    recall.add_argument("--markdown", type=Path, help="write the tables there", metavar="FILE")
    recall.add_argument("--baselines", action="store_true", help="what the usual checks would find, too")
    recall.add_argument("--jobs", type=_positive, default=1, help="processes (default 1)", metavar="N")

    corpus_command.add(commands)
    report = _command(
        commands, "report", _run_of("report"), "write a page of what campaigns found, with pictures of where"
    )
    report.add_argument("sources", nargs="*", help="campaign JSON, saved failures (default: corpus)", metavar="SOURCE")
    report.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE")

    _command(commands, "doctor", _doctor, "say what is installed here and what would run")
    for command in (fuzz, replay):
        command.add_argument("--signature", help="how to call it: 'q, k, v, causal:is_causal=False'", metavar="TEXT")
        command.add_argument("--pretend-cuda", help="answer it for a GPU like sm_90, on a CPU", metavar="ARCH")
    for command in (fuzz, replay, recall):
        command.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    for command in (fuzz, replay, report):
        command.add_argument("--corpus", type=Path, default=Path("regressions"), metavar="DIR")
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
    parser.set_defaults(command=run)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text!r}")
    return int(text)


def _fuzz(asked: argparse.Namespace, console: Console) -> int:
    from harness.cli.fuzz import run
    from harness.running.devices import choose
    from harness.subject.pretend import ask_for

    ask_for(asked.pretend_cuda)
    if asked.sanitizer is not None:
        if choose(asked.device) != "cuda":
            raise CannotRun("compute-sanitizer watches CUDA kernels; run with --device cuda.")
        run_under(asked.sanitizer, sys.argv[1:])
    return run(asked, console)


def _replay(asked: argparse.Namespace, console: Console) -> int:
    from harness.cli.github import report_replays
    from harness.corpus import entries
    from harness.corpus.replay import replay
    from harness.subject.pretend import ask_for
    from harness.subject.signature import with_signature

    ask_for(asked.pretend_cuda)
    name = with_signature(asked.subject, asked.signature) if asked.subject else None
    paths = entries.find(asked.corpus, asked.entries)
    replays = [replay(path, name, asked.device) for path in paths]
    for each in replays:
        console.print(each.line(), markup=False, soft_wrap=True)
    report_replays(replays)
    if len(asked.entries) == 1 == len(replays):
        console.print(replays[0].story(), markup=False, soft_wrap=True)
    statuses = {each.status for each in replays}
    return 1 if "FAILED" in statuses else 2 if "ERROR" in statuses else 0


def _run_of(module: str) -> Callable[..., int]:
    """The `run` of a module of this folder, imported when it is called: torch takes a second."""
    return lambda asked, console: int(import_module(f"harness.cli.{module}").run(asked, console))


def _doctor(asked: argparse.Namespace, console: Console) -> int:
    from harness.cli.doctor import collect_facts

    for name, fact in collect_facts().items():
        console.print(f"{name:12} {fact}", markup=False, soft_wrap=True)
    return 0
