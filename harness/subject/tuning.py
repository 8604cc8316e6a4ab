"""A subject whose kernels are under `triton.autotune`: its configurations are drawn, as if `config` were its keyword.

A fault in one configuration is a fault, though another is faster on this machine.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from harness.interpreter.autotuned import arguments_of, is_interpreted, name_of, run_one

Function = Callable[..., Any]

_OTHERS = "torch triton numpy pytest _pytest hypothesis harness strategies oracles"
_NOT_ENTERED = frozenset([*sys.stdlib_module_names, *_OTHERS.split()])
"""Packages of which no function launches a subject's kernels, but for `_ENTERED`."""

_ENTERED = "harness.subject.adapters."

_ENTERED_BELOW = ("torch._library", "triton.runtime")
"""Operators of `torch.library.custom_op` and kernels, which hold a subject's functions."""


class Tuned:
    """A function with the keyword `config`: a name of `configs`, or None, which leaves the choice to the kernels.

    The choice lasts until `release`, so that a backward runs with it too. A kernel that has no configuration of that
    name, or prunes it for its arguments, runs with the first that is left, as any does in the interpreter by default.
    """

    def __init__(self, function: Function, tuners: Sequence[Any]) -> None:
        self._function, self._tuners = function, tuners
        self.configs = tuple(dict.fromkeys(name for tuner in tuners for name in _names_of(tuner)))

    def __call__(self, *arguments: Any, config: str | None = None, **features: Any) -> Any:
        """Call the function."""
        self.release()
        for tuner in self._tuners:
            if config is not None or is_interpreted(tuner):
                tuner.run = functools.partial(_run, tuner, config)
        return self._function(*arguments, **features)

    def release(self) -> None:
        """Leave the choice to the kernels again."""
        for tuner in self._tuners:
            vars(tuner).pop("run", None)


def _run(tuner: Any, config: str | None, *arguments: Any, **named: Any) -> Any:
    return run_one(tuner, config, arguments, named)


def _names_of(tuner: Any) -> list[str]:
    """The names of a kernel's configurations; in the interpreter, one for each set of the kernel's arguments."""
    configs = tuner.configs
    if is_interpreted(tuner):
        configs = list({arguments_of(config): config for config in reversed(configs)}.values())[::-1]
    return [name_of(config, tuner.configs) for config in configs]


def tuners_of(function: Function) -> tuple[Any, ...]:
    """The autotuned kernels with several configurations that a function can reach, by the names in its code."""
    autotuner = getattr(sys.modules.get("triton.runtime.autotuner"), "Autotuner", None)
    if autotuner is None:
        return ()
    found: list[Any] = []
    seen: dict[int, Any] = {}
    waiting: list[Any] = [function, getattr(function, "__wrapped__", None)]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each  # kept, so that its id stays its own
        found += [each] if isinstance(each, autotuner) else []
        waiting += _reached_from(each)
    return tuple(tuner for tuner in found if len(tuner.configs) > 1)


def _reached_from(each: Any) -> Iterable[Any]:
    """What a value may call: what a function's code names, or what another value holds."""
    if isinstance(each, types.FunctionType):
        return _named_in(each) if _is_entered(each.__module__) else ()
    if isinstance(each, types.MethodType):
        return (each.__func__, each.__self__)
    if isinstance(each, staticmethod | classmethod):
        return (each.__func__,)
    if isinstance(each, functools.partial):
        return (each.func, *each.args, *each.keywords.values())
    if isinstance(each, property):
        return (each.fget,)
    if isinstance(each, list | tuple | set | frozenset):
        return each
    if isinstance(each, dict):
        return list(each.values())
    if isinstance(each, type):
        return [value for base in each.__mro__ if _is_entered(base.__module__) for value in vars(base).values()]
    return _held_by(each)


def _held_by(each: Any) -> Iterable[Any]:
    """What an object that can be called holds, and its class."""
    kind, held = type(each), getattr(each, "__dict__", None)
    if not callable(each) or not isinstance(held, dict):
        return ()
    if kind.__module__.startswith(_ENTERED_BELOW):
        return list(held.values())
    return [kind, *held.values()] if _is_entered(kind.__module__) else ()


def _named_in(function: types.FunctionType) -> Iterator[Any]:
    """The values that a function's code names: globals, what modules among them hold, and what it closes over."""
    for cell in function.__closure__ or ():
        if cell != types.CellType():  # an empty one has no contents to ask for
            yield cell.cell_contents
    yield getattr(function, "__wrapped__", None)
    names = set(_names(function.__code__))
    package = function.__globals__.get("__package__") or ""
    for name in names:
        # A module may be imported where the function runs, and relative to its own package.
        imported = sys.modules.get(name) or sys.modules.get(f"{package}.{name}")
        found: list[Any] = [function.__globals__.get(name), imported]
        for value in found:
            yield from _held_in(value, names) if isinstance(value, types.ModuleType) else [value]


def _held_in(module: types.ModuleType, names: Iterable[str]) -> Iterator[Any]:
    """What a module, and a module that it holds of its own package, has by these names."""
    if not _is_entered(module.__name__):
        return
    for name in names:
        value: Any = vars(module).get(name)
        if isinstance(value, types.ModuleType) and value.__name__.startswith(f"{module.__name__}."):
            yield from _held_in(value, names)
        else:
            yield value


def _names(code: types.CodeType) -> Iterator[str]:
    """The names in a code object, and in those of the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_entered(module: str | None) -> bool:
    name = module or ""
    return name.partition(".")[0] not in _NOT_ENTERED or name.startswith(_ENTERED)
