"""A campaign under NVIDIA's compute-sanitizer: the same command, run as the sanitizer's child.

memcheck ends a CUDA context that reads or writes outside its memory; the worker then reports a crash, so the case is
known, shrunk and saved like any other. The other tools only report, in the sanitizer's own words.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.errors import CannotRun

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FAILED = 1
"""Exit code of the sanitizer where it has found anything, as for a campaign's own failures."""


def command(tool: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs `flashattest ARGUMENTS` under a tool. Raises CannotRun if it is missing."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(Path(home) / "bin"))
    if found is None:
        raise CannotRun("compute-sanitizer is neither on PATH nor in CUDA_HOME/bin; it comes with the CUDA toolkit.")
    watched = ["--tool", tool, "--target-processes", "all", "--error-exitcode", str(FAILED)]
    return [found, *watched, sys.executable, "-m", "harness.cli", *_without_the_option(arguments)]


def run_under(tool: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by that command."""
    line = command(tool, arguments)
    os.execv(line[0], line)


def _without_the_option(arguments: Sequence[str]) -> list[str]:
    left = list(arguments)
    for place, word in enumerate(left):
        if word == "--sanitizer":
            return left[:place] + left[place + 2 :]
        if word.startswith("--sanitizer="):
            return left[:place] + left[place + 1 :]
    return left
