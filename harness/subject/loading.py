"""Finds a subject by its name and loads it."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import CannotRun
from harness.subject.declaration import Attention, Subject, describe
from harness.subject.importing import import_from, import_ours, put_first, unload_namesake
from harness.subject.pretend import hint, pretended_cuda
from harness.subject.shipped import module_of, reason, shipped
from harness.subject.signature import Signed, parse, split_signature, with_signature

DEFAULT = "kernel:flash_attention"


def load(name: str, refuses: str | None = None) -> Subject:
    """Load a subject: a name that ships, `package.module:function` or `path/to/file.py:function`.

    A signature may follow the function, in parentheses (`harness.subject.signature`). Raises CannotRun, in one
    sentence, if there is none of that name.
    """
    with pretended_cuda():
        return _load(name, refuses)


def _load(name: str, refuses: str | None) -> Subject:
    if name in shipped():
        return describe(module_of(name).attention, name, refuses)
    bare, signature = split_signature(name)
    place, _, attribute = bare.rpartition(":")
    if not place or not attribute:
        ships = ", ".join(shipped())
        raise CannotRun(
            f"A subject is package.module:function, path/to/file.py:function or one of {ships}, not {name!r}."
        )
    if name == DEFAULT:
        return describe(_ours_or_theirs(place, attribute), name, refuses)
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module(place)
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise CannotRun(f"{place} has no function {attribute!r}.")
    return describe(function if signature is None else Signed(function, parse(signature)), name, refuses)


def locate(name: str, entry: Path | None) -> str:
    """Return a subject's name with its file found: relative to the current folder, or to the folder of the corpus.

    entry: the saved failure that names the subject, `<folder>/<corpus>/<subject>/<id>.json`; None: there is none.
    """
    bare, signature = split_signature(name)
    place, _, attribute = bare.rpartition(":")
    if entry is None or not place.endswith(".py") or Path(place).is_file():
        return name
    in_corpus_folder = entry.absolute().parent.parent.parent / place
    found = with_signature(f"{in_corpus_folder}:{attribute}", signature)
    return found if in_corpus_folder.is_file() else name


def _ours_or_theirs(package: str, attribute: str) -> Attention:
    """The default subject: our own kernel, unless a package of that name in the current folder has such a function."""
    with suppress(CannotRun):
        theirs = getattr(_module(package), attribute, None)
        if callable(theirs):
            return theirs  # type: ignore[no-any-return]
    return getattr(import_ours(package), attribute)  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    """Import a module, from the current folder if it is there, whatever else is installed under its name."""
    put_first(Path.cwd())
    try:
        return import_from(Path.cwd(), name)
    except (Exception, SystemExit) as error:
        raise CannotRun(f"The subject's module {name!r} cannot be imported: {reason(error)}.{hint(error)}") from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CannotRun(f"The subject's file {path} does not exist.")
    spec = importlib.util.spec_from_file_location(f"subject_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise CannotRun(f"The subject's file {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    unload_namesake(Path.cwd(), path.resolve())
    put_first(Path.cwd())
    put_first(path.resolve().parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        advice = " Name it as package.module:function." if "relative import" in str(error) else hint(error)
        raise CannotRun(f"The subject's file {path} cannot be imported: {reason(error)}.{advice}") from error
    return module
