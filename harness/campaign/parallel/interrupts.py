"""Ctrl-C counted, for code that must not be broken off halfway."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back() -> Iterator[Callable[[], int]]:
    """Let Ctrl-C break nothing off; yield what says how often it was pressed. Only the main thread ever hears of it."""
    pressed = 0

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        pressed += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
