"""Python without the interpreter, to compile where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import kernel

ROOT = Path(kernel.__file__).parents[1]


def run_compiled(*arguments, timeout=300):
    """Run python in a process without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
