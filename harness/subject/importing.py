"""Imports modules from the intended folder, though another package of the same name is installed or loaded.

Our folders are top-level packages, and `kernel` is a likely name for another project's package too.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

OURS = Path(__file__).parents[2]
_RUNNING = ("harness", "oracles", "strategies")
"""Our packages that run now: another package of that name is unloaded again once its module is imported."""


def import_from(folder: Path, name: str) -> ModuleType:
    """Import a module by its dotted name, from this folder if it is there. Raises whatever the import raises."""
    top = name.partition(".")[0]
    spec = _own_package(folder, name)
    if spec is None or _is_loaded(spec):
        return importlib.import_module(name)
    displaced = _unload(top)
    try:
        _load(spec)
        return importlib.import_module(name)
    except BaseException:
        _unload(top)
        sys.modules.update(displaced)
        raise
    finally:
        if top in _RUNNING:
            _unload(top)
            sys.modules.update(displaced)


def import_ours(name: str) -> ModuleType:
    """Import a top-level package of this project, and restore the package of that name that was loaded before."""
    spec = PathFinder.find_spec(name, [str(OURS)])
    if spec is None or _is_loaded(spec):
        return importlib.import_module(name)
    displaced = _unload(name)
    try:
        return _load(spec)
    finally:
        if displaced:
            _unload(name)
            sys.modules.update(displaced)


def unload_namesake(folder: Path, file: Path) -> None:
    """Unload another package with the name of the one that a file below a folder is in, so that it imports its own."""
    if not file.is_relative_to(folder):
        return
    parts = file.relative_to(folder).with_suffix("").parts
    spec = _own_package(folder, ".".join(parts))
    if len(parts) == 1 or parts[0] in _RUNNING or spec is None or _is_loaded(spec):
        return
    _unload(parts[0])
    if spec.origin is None:
        _load(spec)  # runs nothing; otherwise a package with an `__init__.py` would win wherever it is


def put_first(folder: Path) -> None:
    """Make a folder the first on the module search path."""
    importlib.invalidate_caches()
    with suppress(ValueError):
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))


def _own_package(folder: Path, name: str) -> ModuleSpec | None:
    """The top-level package of a module, if it is in this folder and does not name one of our running packages.

    A folder without `__init__.py` counts only if the module itself is in it: it may be anything.
    """
    top = name.partition(".")[0]
    spec = PathFinder.find_spec(top, [str(folder)])
    if spec is None or (top in _RUNNING and _is_ours(name)):
        return None
    module = folder.joinpath(*name.split("."))
    is_there = module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
    return spec if spec.origin is not None or is_there else None


def _is_ours(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def _is_loaded(spec: ModuleSpec) -> bool:
    loaded = getattr(sys.modules.get(spec.name), "__spec__", None)
    if loaded is None:
        return False
    same_folder = list(loaded.submodule_search_locations or []) == list(spec.submodule_search_locations or [])
    return loaded.origin == spec.origin and same_folder


def _load(spec: ModuleSpec) -> ModuleType:
    if spec.loader is None:
        # A folder alone: as a list, its path is not extended by other folders of that name.
        spec.submodule_search_locations = list(spec.submodule_search_locations or [])
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    return module


def _unload(top: str) -> dict[str, ModuleType]:
    """Remove a package and all its modules from those that are loaded, and return them."""
    names = [name for name in sys.modules if name == top or name.startswith(f"{top}.")]
    return {name: sys.modules.pop(name) for name in names}
