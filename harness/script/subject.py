"""The lines of a script that make `subject` the function under test."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import PurePath

from harness.subject import shipped
from harness.verdict import CannotRun

_OURS = ("harness", "strategies", "oracles")
_ADAPTERS = "harness.subjects."


def lines(name: str) -> str:
    """Return code that imports a subject by its module or file, or an adapter that ships as source of its own.

    Raises CannotRun where an adapter cannot stand without the harness.
    """
    if name in shipped():
        return f"{_inlined(_ADAPTERS + name).strip()}\n\n\nsubject = attention"
    place, _, attribute = name.rpartition(":")
    if not place.endswith(".py"):
        return f"{_path('.')}\n{_import(place, attribute)}"
    file = PurePath(place)
    return f"{_path(*dict.fromkeys((file.parent.as_posix(), '.')))}\n{_import(file.stem, attribute)}"


def _path(*folders: str) -> str:
    listed = ", ".join(repr(folder) for folder in folders)
    return f"sys.path[:0] = [{listed}]  # as seen from the folder in which this is run"


def _import(module: str, attribute: str) -> str:
    if all(part.isidentifier() for part in (*module.split("."), attribute)):
        return f"from {module} import {attribute} as subject  # noqa: E402"
    return f"subject = importlib.import_module({module!r}).{attribute}"


def _inlined(module: str) -> str:
    """The statements of an adapter's module, those of the adapters that it imports first."""
    source = inspect.getsource(import_module(module))
    tree = ast.parse(source)
    used = _names_that_run(tree)
    kept: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if not isinstance(statement, ast.ImportFrom) or statement.module is None:
            kept.append(_text(source, statement))
        elif statement.module.startswith(_ADAPTERS):
            kept.append(_inlined(statement.module))
        elif statement.module.partition(".")[0] in _OURS:
            _require_unused(statement, used, module)
        elif statement.module != "__future__":
            kept.append(_text(source, statement))
    return "\n".join(kept)


def _text(source: str, statement: ast.stmt) -> str:
    """A statement as it is written, with its decorators, and with room around what is long."""
    first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", []))])
    lines = source.splitlines()[first - 1 : statement.end_lineno]
    return "\n".join(["", "", *lines, "", ""] if len(lines) > 1 else lines)


def _names_that_run(tree: ast.Module) -> set[str]:
    """Every name that a module uses outside annotations, which a script never evaluates."""
    notes = [n for node in ast.walk(tree) for n in (getattr(node, "annotation", None), getattr(node, "returns", None))]
    noted = {id(inner) for note in notes if isinstance(note, ast.expr) for inner in ast.walk(note)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in noted}


def _require_unused(statement: ast.ImportFrom, used: set[str], module: str) -> None:
    for alias in statement.names:
        if (alias.asname or alias.name) in used:
            raise CannotRun(f"The adapter {module} uses {alias.name} of the harness, so no script can hold it.")
