"""Composes a script: a description of the fault, the functions it needs, the subject, tensors, calls and checks."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import torch

from harness.corpus.entries import Entry
from harness.corpus.script import meanings, parts, subject, values
from harness.corpus.script.body import Body
from harness.corpus.script.calls import calls
from harness.errors import CannotRun
from harness.judging.relations import RELATIONS
from harness.judging.story import headline, printable
from harness.running.devices import choose, prepare
from harness.subject.declaration import Subject
from harness.subject.loading import load, locate
from harness.subject.tuning import Tuned

RUNS_OF_UNSTEADY = 20
_NAN_IN_EMPTY = "torch.use_deterministic_algorithms(True, warn_only=True)  # torch.empty then holds NaN"
_INTERPRET = 'os.environ.setdefault("TRITON_INTERPRET", "1")  # a Triton kernel runs on a CPU in its interpreter'
_IMPORTS = {
    "import base64": r"\bbase64\.",
    "import gc": r"\bgc\.",
    "import importlib": r"\bimportlib\.",
    "import math": r"\bmath\.",
    "import os": r"\bos\.",
    "import sys": r"\bsys\.",
    "import zlib": r"\bzlib\.",
    "from contextlib import suppress": r"\bsuppress\(",
    "from dataclasses import dataclass": r"@dataclass",
    "from math import inf": r"(?<![\w.])inf\b",
    "from math import nan": r"(?<![\w.])nan\b",
    "from typing import Any": r"\bAny\b",
    "from typing import NamedTuple": r"\bNamedTuple\b",
    "": "",
    "import numpy as np": r"\bnp\.",
    "import torch": "",
    "from torch import Tensor": r"\bTensor\b",
}
"""The imports that a script may need, each with the pattern of code that needs it."""


def write(entry: Entry, path: Path | None = None) -> str:
    """Return a Python script that raises if the subject has the fault, and prints nothing otherwise.

    It imports torch and the subject (and NumPy, if tensors are too large to be written in it). path: of the entry, to
    find the subject's file from. Raises CannotRun if the subject is not found, or a script cannot show the fault.
    """
    name = locate(entry.subject, path)
    loaded = _load(entry, name)
    body = Body(entry, calls(entry, loaded))
    is_tuned = isinstance(loaded.function, Tuned)
    functions = [values.generator(body.families)] if body.families else []
    functions += [meanings.source(body.features)] if "scores" in body.needed else []
    functions += [inspect.getsource(getattr(parts, part)).rstrip() for part in body.needed]
    functions += [inspect.getsource(parts.tuned).rstrip()] if is_tuned else []
    imported = subject.lines(name) + ("\n\nsubject = tuned(subject)" if is_tuned else "")
    own_settings = [_INTERPRET] if entry.device == "cpu" and ":" in name else []
    tensors = "\n".join([_settings(entry), *body.tensors])
    code = "\n\n\n".join([*functions, imported, tensors, _steps(entry, body)])
    imports = _imports("\n".join([*own_settings, code]))
    head = [_docstring(entry), "from __future__ import annotations", imports, *own_settings]
    return "\n\n".join(head) + f"\n\n\n{code}\n"


def _load(entry: Entry, name: str) -> Subject:
    if entry.check == "surroundings_unchanged" and "its input" not in entry.verdict.sentence:
        raise CannotRun("A script cannot see writes outside a tensor that the call makes itself: replay the failure.")
    if entry.check in RELATIONS:
        choose(entry.device)  # finding its calls takes running them
    prepare(entry.device if torch.cuda.is_available() else "cpu")
    return load(name)


def _settings(entry: Entry) -> str:
    return "\n".join([f'DEVICE = "{entry.device}"', *([_NAN_IN_EMPTY] if entry.kind == "not_finite" else [])])


def _steps(entry: Entry, body: Body) -> str:
    steps = "\n\n".join(body.steps)
    if entry.kind != "not_repeatable":
        return steps
    return f"for _ in range({RUNS_OF_UNSTEADY}):\n" + textwrap.indent(steps, "    ")


def _docstring(entry: Entry) -> str:
    found_with = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    lines = [
        headline(entry.verdict),
        "",
        f"Subject: {entry.subject}",
        f"Case: {entry.case!r}",
        f"Found on {entry.device} with {found_with}",
        "",
        "It raises if the fault is present, and prints nothing otherwise.",
    ]
    text = "\n".join(printable(line).replace("\\", "\\\\").replace('"""', "'''") for line in lines)
    return f'"""{text}\n"""'


def _imports(code: str) -> str:
    return "\n".join(line for line, use in _IMPORTS.items() if re.search(use, code))
