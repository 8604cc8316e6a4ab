"""Command lines run in a fork of this process, which has everything imported already, and what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness.cli.main import main

SUBJECTS = """
import time
import torch

def right(q, k, v, causal=False):
    return torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double(), v.double(), is_causal=causal, enable_gqa=True).to(q.dtype)

def faulty(q, k, v, causal=False):
    return right(q, k, v)

def deep(q, k, v, causal=False):
    return right(q, k, v, causal and k.shape[2] < 70)

def slow(q, k, v):
    time.sleep(0.05)
    return right(q, k, v)

def hangs(q, k, v):
    while True:
        pass
"""


class Running:
    """A command line in a process and a process group of its own, which prints to a file. first: called there first."""

    def __init__(self, *arguments: str, first: Callable[[], None] = lambda: None) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                printed = os.open("printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(printed, 1)
                os.dup2(printed, 2)
                first()
                with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
                    sys.stdout, sys.stderr = out, err
                    status = main(arguments)
            finally:
                os._exit(status)

    def wait(self) -> int:
        """The exit code; negative is a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to this process alone; return all processes below it."""
        below = descendants(self.pid)
        os.kill(self.pid, number)
        return below


def printed() -> str:
    """What all command lines here have printed."""
    return Path("printed").read_text()


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = [int(word) for task in Path(f"/proc/{pid}/task").glob("*/children") for word in task.read_text().split()]
    return [*found, *(below for child in found for below in descendants(child))]


def jobs_of(pid: int) -> list[int]:
    """The children of a campaign that have children themselves: a job has a fork server."""
    return [child for child in descendants(pid) if parent(child) == pid and descendants(child)]


def parent(pid: int) -> int:
    """Whose child a process is; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_alive(pid: int) -> bool:
    """Whether a process runs still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(holds, seconds: float = 15.0) -> bool:
    """Wait until something holds; return whether it did in time."""
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(held)


def notes() -> list[dict]:
    """The cases in the notes of running campaigns."""
    read = [path.read_bytes().split(b"\n")[0] for path in Path(".flashattest/running").glob("*.json")]
    return [json.loads(line)["case"] for line in read if line]
