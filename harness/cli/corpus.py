"""`flashattest corpus`: what is saved, one failure in full, what is fixed and may go, and what is known."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness.corpus.mark import STATUSES
from harness.errors import CannotRun

if TYPE_CHECKING:
    from harness.corpus.entries import Entry


def add(commands: Any) -> None:
    """Add the command to the command line's subparsers."""
    what = "list, show, prune or mark what is saved"
    parser = commands.add_parser("corpus", help=what, description=f"{what.capitalize()}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    listed = _action(actions, "list", _list, "print a line for each saved failure")
    _action(actions, "show", _show, "print the bug report of a saved failure").add_argument("entry", metavar="ID|PATH")
    what = "print a Python script that shows a saved failure, with nothing of ours in it"
    _action(actions, "script", _script, what).add_argument("entry", metavar="ID|PATH")
    prune = _action(actions, "prune", _prune, "replay, and remove what is FIXED")
    for action in (listed, prune):
        action.add_argument("entries", nargs="*", help="default: the whole corpus", metavar="ID|PATH")
    prune.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    prune.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    mark = _action(actions, "mark", _mark, "mark a failure as known (it fails no replay) or fixed, or take that back")
    mark.add_argument("entry", metavar="ID|PATH")
    mark.add_argument("status", nargs="?", choices=(*STATUSES, "none"), default="known", help="default: known")
    mark.add_argument("--why", default="", help="one line, shown beside the mark", metavar="TEXT")


def _action(actions: Any, name: str, run: Any, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=what, description=f"{what.capitalize()}.")
    parser.set_defaults(command=run)
    parser.add_argument("--corpus", type=Path, default=Path("regressions"), metavar="DIR")
    return parser


def _list(asked: argparse.Namespace, console: Console) -> int:
    from harness.corpus import entries

    lines, code = [], 0
    for path in entries.find(asked.corpus, asked.entries):
        try:
            lines.append(_columns(entries.load(path)))
        except entries.CorruptEntry as error:
            print(f"flashattest: {error}", file=sys.stderr)
            code = 2
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        _print(console, "  ".join(padded).rstrip())
    return code


def _columns(entry: Entry) -> tuple[str, ...]:
    geometry = entry.case.geometry
    shape = " ".join(f"{name}={getattr(geometry, name)}" for name in ("B", "Hq", "Hk", "Nq", "Nk", "d"))
    marked = str(entry.mark) if entry.mark else ""
    return (entry.id, entry.subject, entry.kind, entry.check, entry.case.dtype, shape, marked)


def _show(asked: argparse.Namespace, console: Console) -> int:
    from harness.corpus import entries
    from harness.corpus.bug_report import bug_report

    path = entries.find_one(asked.corpus, asked.entry)
    _print(console, bug_report(entries.load(path), path))
    return 0


def _script(asked: argparse.Namespace, console: Console) -> int:
    from harness.corpus import entries
    from harness.corpus.script import write

    path = entries.find_one(asked.corpus, asked.entry)
    sys.stdout.write(write(entries.load(path), path))
    return 0


def _prune(asked: argparse.Namespace, console: Console) -> int:
    from harness.corpus import entries
    from harness.corpus.replay import replay

    code = 0
    for path in entries.find(asked.corpus, asked.entries):
        replayed = replay(path, device=asked.device)
        if not replayed.is_gone:
            _print(console, f"kept     {replayed.line()}")
            code = 2 if replayed.status == "ERROR" else code
            continue
        if not asked.dry_run:
            entries.remove(path)
        _print(console, f"{'would go' if asked.dry_run else 'removed '} {replayed.line()}")
    return code


def _mark(asked: argparse.Namespace, console: Console) -> int:
    from harness.corpus import entries
    from harness.corpus.mark import Mark

    path = entries.find_one(asked.corpus, asked.entry)
    try:
        mark = None if asked.status == "none" else Mark(asked.status, asked.why)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    entries.mark(path, mark)
    _print(console, f"{path} is marked {mark}." if mark else f"{path} is not marked.")
    return 0


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
