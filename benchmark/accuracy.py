"""RMSE against float64, on the inputs with outliers of the FlashAttention-3 paper's section 4.3.

    python benchmark/accuracy.py [--dtype fp16 bf16] [--heads 4] [--providers NAME ...] [--json FILE]
    python benchmark/accuracy.py --direction backward                                # dQ, dK and dV, for a normal dO

N 2048, d 64, full attention; the same numbers on every device. Each RMSE is also given as a multiple of an ideal
kernel's, which errs by its casts alone. On a CPU ours runs in Triton's interpreter, a second or two a head. Exit code
1: one of ours failed, or is farther from ideal than it may be (`MOST`).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from harness.errors import CannotRun
from harness.running.devices import choose, prepare
from speed.machine import describe
from speed.outliers import D, N, exact, ideal, outlier_inputs, outlier_row, rmse
from speed.passes import calls_of
from speed.presets import ALL
from speed.providers import PROVIDERS, Provider, named
from speed.rows import PASSES, Inputs, Row

HEADS, SEED = 4, 0
MOST = {"O": 1.01, "dQ": 1.05, "dK": 1.05, "dV": 1.05}
"""RMSE that ours may have, as a multiple of an ideal kernel's."""
SLOW_TO_COMPILE = ("flex_compiled",)
"""Left out on a CPU unless asked for."""


@dataclass(frozen=True)
class Accuracy:
    """A provider's RMSE of a tensor ("O", "dQ", "dK" or "dV"), None where it has none, and then why.

    of_ideal: as a multiple of an ideal kernel's. bound: the largest that ours may have; None for the others.
    """

    provider: str
    dtype: str
    rmse: float | None
    of_ideal: float | None = None
    why: str = ""
    ours: bool = False
    bound: float | None = None
    tensor: str = "O"

    @property
    def broken(self) -> bool:
        """Whether it is ours and failed or is past its bound."""
        return self.ours and (self.rmse is None or (self.bound is not None and not self.rmse <= self.bound))


def main(arguments: list[str] | None = None) -> int:
    asked = _arguments(arguments)
    try:
        device = choose(asked.device)
        prepare(device)
        providers = _providers(asked.providers, device)
    except (CannotRun, KeyError) as problem:
        print(f"accuracy: {problem.args[0]}", file=sys.stderr)
        return 2
    machine = describe(device)
    print(f"RMSE against float64, N {N}, d {D}, {asked.heads} heads, seed {asked.seed}, on {machine['device']}")
    of_run = (asked.heads, providers, device, asked.seed, asked.direction)
    found = [each for dtype in asked.dtype for each in measure(dtype, *of_run)]
    if asked.json is not None:
        settings = {"heads": asked.heads, "seed": asked.seed, "direction": asked.direction}
        data = {"machine": machine, "settings": settings, "accuracy": [asdict(each) for each in found]}
        asked.json.write_text(json.dumps(data, indent=1) + "\n")
    return int(any(each.broken for each in found))


def measure(
    dtype: str, heads: int, providers: list[Provider], device: str, seed: int, direction: str = "forward"
) -> list[Accuracy]:
    """The RMSE of each provider in a dtype, printed as it comes."""
    row = outlier_row(dtype, heads, direction)
    inputs = outlier_inputs(row, device, seed)
    truths, ideals = exact(row, inputs), ideal(row, inputs)
    floors = {name: rmse(ideals[name], truth) for name, truth in truths.items()}
    for name, floor in floors.items():
        print(f"{dtype:5} {'(ideal kernel)':16} {name:2} {floor:.3g}")
    found = []
    for provider in providers:
        for each in _of(provider, row, inputs, truths, floors):
            bound = MOST[each.tensor] * floors[each.tensor]
            found.append(replace(each, ours=True, bound=bound) if provider.ours else each)
            print(_line(found[-1]), flush=True)
    return found


def _of(
    provider: Provider, row: Row, inputs: Inputs, truths: dict[str, Tensor], floors: dict[str, float]
) -> Iterator[Accuracy]:
    try:
        with provider.around(), warnings.catch_warnings(action="ignore"):
            got = calls_of(provider, row, inputs).whole()
            off = [rmse(x, truths[name]) for name, x in zip(truths, got if row.backward else (got,), strict=True)]
    except Exception as problem:  # whatever a provider raises is its outcome
        why = (str(problem) or type(problem).__name__).strip().split("\n")[0][:160]
        yield from (Accuracy(provider.name, row.dtype, None, why=why, tensor=name) for name in truths)
        return
    for name, each in zip(truths, off, strict=True):
        if math.isfinite(each):
            yield Accuracy(provider.name, row.dtype, each, each / floors[name], tensor=name)
        else:
            yield Accuracy(provider.name, row.dtype, None, why="not finite", tensor=name)


def _line(found: Accuracy) -> str:
    said = found.why if found.rmse is None else f"{found.rmse:.3g}  {found.of_ideal:.2f} x ideal"
    verdict = "" if found.bound is None else f"  bound {found.bound:.2g} {'BROKEN' if found.broken else 'kept'}"
    return f"{found.dtype:5} {found.provider:16} {found.tensor:2} {said}{verdict}"


def _providers(names: list[str] | None, device: str) -> list[Provider]:
    """Those that are asked for, or all that can run here."""
    left_out = SLOW_TO_COMPILE if device == "cpu" else ()
    providers = [named(name) for name in names or ALL if names or name not in left_out]
    return [provider for provider in providers if provider.absent(device) is None]


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=("fp16", "bf16"), default=["fp16", "bf16"])
    parser.add_argument("--direction", choices=PASSES, default="forward")
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--providers", nargs="+", metavar="NAME", help=f"{', '.join(PROVIDERS)}, or ours:KEY=VALUE,...")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
