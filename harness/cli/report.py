"""The command `flashattest report`."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console

from harness.errors import CannotRun
from harness.report.page import counted, page
from harness.report.source import read


def run(asked: Namespace, console: Console) -> int:
    """Write the page. Raises CannotRun where a source is none, or the page cannot be written."""
    sources = [read(name, asked.corpus) for name in asked.sources or [str(asked.corpus)]]
    _write(asked.output, page(sources))
    console.print(f"{asked.output}: {counted(sources)}", markup=False, soft_wrap=True)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotRun(f"The report cannot be written as {path}: {error.strerror or error}.") from error
