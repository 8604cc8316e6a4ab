"""Kernels under `triton.autotune`, launched with one configuration instead of the fastest: nothing is timed.

Stock asks for a GPU's driver to time the configurations, which an interpreter has not.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from harness.interpreter.patches import Patches, mend_of


def run_one(tuner: Any, asked: str | None, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Launch an autotuned kernel with one configuration, of those that Triton could choose for these arguments.

    asked: its name; None, or one that Triton could not choose (pruned, too large, refused by `tl.static_assert`): the
    first that it could.
    """
    whole = tuner.configs
    given = dict(zip(tuner.arg_names, arguments, strict=False))
    prune = getattr(tuner, "early_config_prune", None)
    left = list(prune(whole, given, **named)) if prune else list(whole)
    left.sort(key=lambda config: name_of(config, whole) != asked)
    try:
        for i, config in enumerate(left):
            tuner.configs = [config]
            try:
                return type(tuner).run(tuner, *arguments, **named)
            except Exception as error:
                if i == len(left) - 1 or not _passes_over(error):
                    raise
    finally:
        tuner.configs = whole


def _passes_over(error: BaseException | None) -> bool:
    """Whether Triton passes over a configuration for this error, as it does when it times them."""
    while error is not None:
        if type(error).__name__ in ("OutOfResources", "PTXASError", "CompileTimeAssertionFailure"):
            return True
        if isinstance(error, AssertionError) and error.__traceback__ is not None:
            # What the interpreter has in the place of `tl.static_assert`.
            return traceback.extract_tb(error.__traceback__)[-1].name == "_new_static_assert"
        error = error.__cause__
    return False


def name_of(config: Any, among: Sequence[Any]) -> str:
    """The name of a configuration: the kernel's arguments, and the launch's where those are alike in several."""
    alike = [other for other in among if arguments_of(other) == arguments_of(config)]
    launch = [name for name in ("num_warps", "num_stages") if len({getattr(other, name) for other in alike}) > 1]
    parts = [arguments_of(config), *(f"{name}={getattr(config, name)}" for name in launch)]
    return " ".join(part for part in parts if part) or f"num_warps={config.num_warps}"


def arguments_of(config: Any) -> str:
    """The arguments that a configuration gives the kernel, as text."""
    return " ".join(f"{name}={value}" for name, value in config.kwargs.items())


def is_interpreted(tuner: Any) -> bool:
    """Whether the kernel below `triton.autotune`, `triton.heuristics` and `triton.jit` runs in the interpreter."""
    kernel = tuner
    while hasattr(kernel, "fn") and type(kernel).__name__ != "InterpretedFunction":
        kernel = kernel.fn
    return type(kernel).__name__ == "InterpretedFunction"


@mend_of("autotuned kernels", "correctness", ("InterpretedFunction.run",))
def autotuned_kernels(patches: Patches) -> None:
    """Stock raises "0 active drivers" for a kernel with several configurations."""

    def run(stock: Any) -> Any:
        def launch(self: Any, *arguments: Any, **named: Any) -> Any:
            if len(self.configs) > 1 and is_interpreted(self):
                return run_one(self, None, arguments, named)
            return stock(self, *arguments, **named)

        return launch

    patches.wrap(importlib.import_module("triton.runtime.autotuner").Autotuner, "run", run)
