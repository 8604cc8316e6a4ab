"""Accuracy beside speed: RMSE against float64 on the outliers of the FlashAttention-3 paper's section 4.3.

    python benchmark/accuracy.py [--dtype fp16 bf16] [--heads 4] [--providers NAME ...] [--json FILE]

N 2048, d 64, full attention; the same numbers on every device. Beside each RMSE stands its ratio to that of an ideal
kernel, whose only errors are the casts of P and of O. On a CPU ours runs in Triton's interpreter, a second or two a
head. Exit code 1: one of ours is past its bound (fp16 5.5e-5, bf16 3.4e-4; for the default input alone), or failed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from harness.devices import choose, prepare
from harness.verdict import CannotRun
from speed.machine import describe
from speed.outliers import BOUNDS, HEADS, SEED, D, N, bound, exact, ideal, outlier_inputs, outlier_row, rmse
from speed.presets import ALL
from speed.providers import PROVIDERS, Provider, named
from speed.rows import Inputs, Row

SLOW_TO_COMPILE = ("flex_compiled",)
"""Left out on a CPU unless asked for."""


@dataclass(frozen=True)
class Accuracy:
    """A provider's RMSE in a dtype, None where it gave none, and then why; its ratio to an ideal kernel's.

    bound: what ours must keep on this input, if it has a bound.
    """

    provider: str
    dtype: str
    rmse: float | None
    of_ideal: float | None = None
    why: str = ""
    ours: bool = False
    bound: float | None = None

    @property
    def broken(self) -> bool:
        """Whether it is ours and failed, or keeps not its bound; NaN keeps none."""
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
    found = [each for dtype in asked.dtype for each in measure(dtype, asked.heads, providers, device, asked.seed)]
    if asked.json is not None:
        settings = {"heads": asked.heads, "seed": asked.seed}
        data = {"machine": machine, "settings": settings, "accuracy": [asdict(each) for each in found]}
        asked.json.write_text(json.dumps(data, indent=1) + "\n")
    return int(any(each.broken for each in found))


def measure(dtype: str, heads: int, providers: list[Provider], device: str, seed: int) -> list[Accuracy]:
    """The RMSE of each provider in a dtype, printed as it comes."""
    row = outlier_row(dtype, heads)
    inputs = outlier_inputs(row, device, seed)
    truth = exact(row, inputs)
    floor, limit = rmse(ideal(row, inputs), truth), bound(row, seed)
    print(f"{dtype:5} {'(ideal kernel)':16} {floor:.3g}")
    found = []
    for provider in providers:
        found.append(_of(provider, row, inputs, truth, floor))
        if provider.ours:
            found[-1] = replace(found[-1], ours=True, bound=limit)
        print(_line(found[-1]), flush=True)
    return found


def _of(provider: Provider, row: Row, inputs: Inputs, truth: Tensor, floor: float) -> Accuracy:
    try:
        with provider.around(), warnings.catch_warnings(action="ignore"):
            off = rmse(provider.bind(row, inputs)(), truth)
    except Exception as problem:  # whatever a provider raises is told
        why = (str(problem) or type(problem).__name__).strip().split("\n")[0][:160]
        return Accuracy(provider.name, row.dtype, None, why=why)
    if not math.isfinite(off):
        return Accuracy(provider.name, row.dtype, None, why="not finite")
    return Accuracy(provider.name, row.dtype, off, off / floor)


def _line(found: Accuracy) -> str:
    said = found.why if found.rmse is None else f"{found.rmse:.3g}  {found.of_ideal:.2f} x ideal"
    verdict = "" if found.bound is None else f"  bound {found.bound:.2g} {'BROKEN' if found.broken else 'kept'}"
    return f"{found.dtype:5} {found.provider:16} {said}{verdict}"


def _providers(names: list[str] | None, device: str) -> list[Provider]:
    """Those that are asked for, or all that can run here."""
    left_out = SLOW_TO_COMPILE if device == "cpu" else ()
    providers = [named(name) for name in names or ALL if names or name not in left_out]
    return [provider for provider in providers if provider.absent(device) is None]


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", nargs="+", choices=BOUNDS, default=list(BOUNDS))
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--providers", nargs="+", metavar="NAME", help=f"{', '.join(PROVIDERS)}, or ours:KEY=VALUE,...")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
