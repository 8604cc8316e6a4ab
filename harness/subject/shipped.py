"""The subjects that ship: their names, the package that each needs, and whether it is installed here.

A subject's file names its package in a constant `REQUIRES`, which is read without running the file: listing the
subjects must not import a dozen packages.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from harness.errors import CannotRun

_FOLDER = Path(__file__).parent / "adapters"


def shipped() -> tuple[str, ...]:
    """Names of the subjects that ship: the modules of `harness.subject.adapters`, each with a function `attention`."""
    modules = pkgutil.iter_modules([str(_FOLDER)])
    return tuple(module.name for module in modules if not module.name.startswith("_"))


def requirement(name: str) -> str | None:
    """The package, by its name on PyPI, that a subject needs besides what Flashattest itself installs."""
    for statement in ast.parse((_FOLDER / f"{name}.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "REQUIRES":
            return str(ast.literal_eval(statement.value))
    return None


def installed(package: str) -> str | None:
    """The version of a package that is installed here, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def module_of(name: str) -> ModuleType:
    """Import the module of a subject that ships. Raises CannotRun, in one sentence, if it cannot be imported."""
    try:
        return importlib.import_module(f"harness.subject.adapters.{name}")
    except (Exception, SystemExit) as error:
        package, why = requirement(name), reason(error)
        if package is not None and isinstance(error, ImportError) and installed(package) is None:
            sentence = f"The subject {name!r} needs {package}, which is not installed: pip install {package}."
        elif package is not None:
            sentence = f"The subject {name!r} needs {package}, which is installed but cannot be imported ({why})."
        else:
            sentence = f"The subject {name!r} cannot be imported: {why}."
        raise CannotRun(sentence) from error


def reason(error: BaseException) -> str:
    """Why an import failed, without a full stop: what was raised or, for a call of `exit`, where it was called."""
    if isinstance(error, SystemExit):
        calls = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        place = f" in {Path(calls[-1].filename).name}, line {calls[-1].lineno}" if calls else ""
        return f"it calls exit({'' if error.code is None else repr(error.code)}){place}"
    return f"{type(error).__name__}: {str(error).strip().rstrip('.')}"
