"""On what, with what and from what a file of results was made."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def describe(device: str) -> dict[str, str]:
    """The device, the versions, the commit and the command of this run."""
    return {
        "device": _device(device),
        "torch": torch.__version__,
        "triton": version("triton"),  # not imported: that must wait until TRITON_INTERPRET is settled
        "cuda": str(torch.version.cuda),
        "cudnn": _cudnn() if device == "cuda" else "None",
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "None",
        "python": platform.python_version(),
        "commit": _commit(),
        "command": shlex.join(["python", *(_from_root(word) for word in sys.argv)]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, Triton's interpreter"


def _cudnn() -> str:
    number: Callable[[], int | None] = torch.backends.cudnn.version
    return str(number())


def _commit() -> str:
    """The commit, with a "+" where the tree differs from it; outside a checkout what FLASHATTEST_COMMIT says."""
    commit = _said("git", "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return (commit + ("+" if changed else "")) if commit else os.environ.get("FLASHATTEST_COMMIT") or "unknown"


def _said(*command: str) -> str:
    """The first line that a command prints; nothing where it is missing or fails."""
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.strip().split("\n")[0]


def _from_root(word: str) -> str:
    """A script's path as seen from the root, and any other word as it is."""
    path = Path(word).resolve()
    return str(path.relative_to(ROOT)) if path.suffix == ".py" and path.is_relative_to(ROOT) else word
