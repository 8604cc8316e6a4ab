"""The lines of a script that make `subject` the function under test."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePath

from harness.errors import CannotRun
from harness.subject.shipped import shipped
from harness.subject.signature import parse, split_signature

_OURS = ("harness", "strategies", "oracles")
_ADAPTERS = "harness.subject.adapters."
_IMPORT_OURS = re.compile(r"^(\w+) = import_ours\(\"(\w+)\"\)\.\1$", re.MULTILINE)
"""How an adapter imports our kernel, whatever else has that name; a script imports it by its name."""


def lines(name: str) -> str:
    """Return code that imports a subject by its module or file, or the inlined source of an adapter that ships.

    Raises CannotRun if an adapter needs the harness.
    """
    if name in shipped():
        return f"{_inline(_ADAPTERS + name, set()).strip()}\n\n\nsubject = attention"
    bare, signature = split_signature(name)
    place, _, attribute = bare.rpartition(":")
    imported = f"{_path('.')}\n{_import(place, attribute)}"
    if place.endswith(".py"):
        file = PurePath(place)
        imported = f"{_path(*dict.fromkeys((file.parent.as_posix(), '.')))}\n{_import(file.stem, attribute)}"
    if signature is None:
        return imported
    return f"{imported}\nown_subject = subject\n\n\n{parse(signature).source('subject', 'own_subject')}"


def _path(*folders: str) -> str:
    listed = ", ".join(repr(folder) for folder in folders)
    return f"sys.path[:0] = [{listed}]  # relative to the folder in which this is run"


def _import(module: str, attribute: str) -> str:
    if all(part.isidentifier() for part in (*module.split("."), attribute)):
        return f"from {module} import {attribute} as subject  # noqa: E402"
    return f"subject = importlib.import_module({module!r}).{attribute}"


def _inline(module: str, seen: set[str]) -> str:
    """Return the statements of an adapter's module, after those of the adapter modules it imports, each once."""
    if module in seen:
        return ""
    seen.add(module)
    spec = find_spec(module)  # its source only: the package that it adapts may not be installed
    assert spec is not None
    assert spec.origin is not None
    source = _IMPORT_OURS.sub(r"from \2 import \1", Path(spec.origin).read_text())
    tree = ast.parse(source)
    used = _names_that_run(tree)
    kept: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if not isinstance(statement, ast.ImportFrom) or statement.module is None:
            kept.append(_text(source, statement))
        elif statement.module.startswith(_ADAPTERS):
            kept.append(_inline(statement.module, seen))
        elif statement.module.partition(".")[0] in _OURS:
            kept += _constants(statement, used, module)
        elif statement.module != "__future__":
            kept.append(_text(source, statement))
    return "\n".join(kept)


def _text(source: str, statement: ast.stmt) -> str:
    """Return a statement's source with its decorators, and blank lines around a long one."""
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    lines = source.splitlines()[first - 1 : statement.end_lineno]
    return "\n".join(["", "", *lines, "", ""] if len(lines) > 1 else lines)


def _names_that_run(tree: ast.Module) -> set[str]:
    """Return every name that a module uses outside annotations, which a script never evaluates."""
    notes = [n for node in ast.walk(tree) for n in (getattr(node, "annotation", None), getattr(node, "returns", None))]
    noted = {id(inner) for note in notes if isinstance(note, ast.expr) for inner in ast.walk(note)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in noted}


def _constants(statement: ast.ImportFrom, used: set[str], module: str) -> list[str]:
    """Return constants that an adapter imports from us as assignments. Raises CannotRun for anything else it uses."""
    assert statement.module is not None
    found = []
    for alias in statement.names:
        if (alias.asname or alias.name) in used:
            value = getattr(import_module(statement.module), alias.name)
            if not isinstance(value, str | int | float | tuple):
                raise CannotRun(f"The adapter {module} uses {alias.name} of the harness, so no script can hold it.")
            found.append(f"{alias.asname or alias.name} = {value!r}")
    return found
