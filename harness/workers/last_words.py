"""Why a process ended, from what it printed: a library's last message, and Python's stack where there is one."""

from __future__ import annotations

import re

from harness.running.raised import Frame, pick_frame

LONGEST = 200
_CAUSE = re.compile(
    r"abort|assert|corrupt|double free|error|fatal|free\(\)|illegal|invalid|killed|malloc|memory|overflow|"
    r"segmentation|smash|terminate|trap|unreachable|what\(\)",
    re.IGNORECASE,
)
"""Words of lines that a library prints before it aborts."""

_FAULTHANDLER = re.compile(r"^Fatal Python error: |^(Current thread|Thread) 0x|^Stack \(most recent call first\)", re.M)
_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<function>.+)$', re.M)


def last_words(printed: str, is_signal: bool) -> str:
    """Return the line that says why a process ended, "" where none does.

    A warning is never the reason. Before a signal, only a line that names an error is taken for it.
    """
    lines = _without_warnings(_FAULTHANDLER.split(printed, maxsplit=1)[0].splitlines())
    named = [line for line in lines if _CAUSE.search(line)]
    chosen = named or ([] if is_signal else lines)
    return chosen[-1][:LONGEST] if chosen else ""


def frame_of(printed: str) -> Frame | None:
    """Return the subject's frame in the stack that `faulthandler` printed, if there is one."""
    stack = _FAULTHANDLER.search(printed)
    if stack is None:
        return None
    frames = _FRAME.finditer(printed, stack.start())
    return pick_frame([Frame(each["file"], int(each["line"]), each["function"]).with_text() for each in frames])


def _without_warnings(lines: list[str]) -> list[str]:
    """Return the lines that are not empty, without those of a warning and of the source line that follows it."""
    kept, is_after_warning = list[str](), False
    for line in lines:
        is_warning = re.search(r"warn", line, re.IGNORECASE) is not None
        if line.strip() and not is_warning and not (is_after_warning and line.startswith(" ")):
            kept.append(line.strip())
        is_after_warning = is_warning
    return kept
