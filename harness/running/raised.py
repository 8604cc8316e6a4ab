"""Describes an exception of the subject, with the one frame of its own code that a person looks for."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch

from harness.errors import HarnessError, first_line

ROOT = Path(__file__).resolve().parents[2]
_SUBJECTS = (ROOT / "harness" / "subject" / "adapters", ROOT / "harness" / "recall")
"""Folders of `harness` that hold functions under test."""

_OURS = (ROOT / "harness", ROOT / "strategies", ROOT / "oracles")
_PACKAGES = {Path(sysconfig.get_paths()[name]).resolve() for name in ("purelib", "platlib")}
_LIBRARIES = (
    Path(torch.__file__).resolve().parent,
    Path(numpy.__file__).resolve().parent,
    *(path / "triton" for path in _PACKAGES),
)
_STANDARD = Path(sysconfig.get_paths()["stdlib"]).resolve()
_LONGEST_LINE = 160


@dataclass(frozen=True)
class Frame:
    """A place in a program: a file, the line's number, the function, and the line's text ("" where it is unknown)."""

    file: str
    line: int
    function: str
    text: str = ""

    def __str__(self) -> str:
        text = f": {self.text[:_LONGEST_LINE]}" if self.text else ""
        return f"{_short(Path(self.file))}:{self.line} in {self.function}{text}"

    def with_text(self) -> Frame:
        """Return the frame with the text of its line, read from the file."""
        return replace(self, text=linecache.getline(self.file, self.line).strip())


def describe_raised(error: Exception) -> str:
    """Return the type and message of an exception, and the subject's frame where it was raised, in one line."""
    frame = subject_frame(error)
    return _message(error) if frame is None else f"{_message(error)} ({frame})"


def subject_frame(error: BaseException) -> Frame | None:
    """Return the innermost frame of the subject's own code, None where there is none."""
    # Triton's interpreter raises an exception of its own, from the one that was raised in the kernel.
    while type(error).__module__.startswith("triton") and error.__cause__ is not None:
        error = error.__cause__
    frames = [
        Frame(each.filename, each.lineno or 0, each.name, (each.line or "").strip())
        for each in reversed(traceback.extract_tb(error.__traceback__))
    ]
    return pick_frame(frames)


def pick_frame(innermost_first: list[Frame]) -> Frame | None:
    """Return the first frame outside torch, Triton, NumPy, the standard library and us; an adapter's if there is none.

    innermost_first: the frames of a call.
    """
    ranked = sorted(innermost_first, key=lambda frame: _rank(Path(frame.file)))
    return ranked[0] if ranked and _rank(Path(ranked[0].file)) < 2 else None


def _rank(file: Path) -> int:
    """0: the subject's own file. 1: an adapter of ours. 2: neither."""
    path = file.resolve() if file.is_absolute() else file
    if any(path.is_relative_to(folder) for folder in _SUBJECTS):
        return 1
    if any(path.is_relative_to(folder) for folder in (*_OURS, *_LIBRARIES)):
        return 2
    is_installed = any(path.is_relative_to(folder) for folder in _PACKAGES)
    return 2 if (path.is_relative_to(_STANDARD) and not is_installed) or str(file).startswith("<frozen") else 0


def _message(error: Exception) -> str:
    lines = str(error).splitlines()
    if lines and re.fullmatch(r"at \d+:\d+:", lines[0]):
        # A compilation error of Triton begins with the place in the kernel, and ends with what is wrong.
        return f"{type(error).__name__}: {lines[0]} {lines[-1].strip()}"
    return type(error).__name__ if not lines and not isinstance(error, HarnessError) else first_line(error)


def _short(file: Path) -> Path:
    """Return the path from the current folder or from the folder of packages; elsewhere its last two parts."""
    for folder in (Path.cwd(), *_PACKAGES):
        if file.is_relative_to(folder):
            return file.relative_to(folder)
    return Path(*file.parts[-2:])
