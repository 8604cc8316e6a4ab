"""Compile the kernel ahead of time, with no GPU, and report what each tile configuration costs.

python -m kernel.resources [--arch 80 89 90 100] [--d 64 128 256] [--dtype fp16 fp32] [--defaults-only] [--jobs 2]
                           [--json FILE]

Registers and spilled bytes are a thread's, from `ptxas -v`; shared memory is a block's. fp16 stands for bf16 too, which
takes the same registers. Exit 1 if a default configuration spills, does not fit or does not compile.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, CompiledKernel

from .arguments import DTYPES
from .defaults import default_tile
from .flash_attn_triton import INTERPRETED, _forward
from .tiles import TileConfig, block_d, fitting_space, shared_memory_limit

ARCHITECTURES = (80, 89, 90, 100)
_WARP_SIZE = 32
_POINTERS = {"lse_ptr": "*fp32", "skipped_ptr": "*i32", "seqlens_ptr": "*i32"}


@dataclass(frozen=True)
class Point:
    """One compilation: an architecture, a head dim, a dtype and a tile."""

    arch: int
    d: int
    dtype: str
    tile: TileConfig
    default: bool


@dataclass(frozen=True)
class Resources:
    """What a point costs: registers and spilled bytes per thread, shared bytes per block, and the verdict."""

    registers: int = 0
    spilled: int = 0
    shared: int = 0
    verdict: str = "does not compile"


def compile_kernel(point: Point, **constexprs: int) -> CompiledKernel:
    """Compile the causal kernel with sequence lengths, the largest variant, on the path of aligned contiguous tensors.

    `constexprs` replaces single ones, FAST=False for the path of any strides.
    """
    constants = {
        "skipped_ptr": None,
        "BLOCK_D": block_d(point.d),
        "PAD_D": point.d != block_d(point.d),
        **{"CAUSAL": True, "HAS_SEQLENS": True, "FAST": True, "WIDE": False, "SIGN": 1, "WIDEN": False, "COUNT": False},
        **point.tile.blocks(),
        **constexprs,
    }
    signature = {
        p.name: "constexpr" if p.name in constants else _argument_type(p, point.dtype) for p in _forward.params
    }
    options = {"num_warps": point.tile.num_warps, "num_stages": point.tile.num_stages}
    source = ASTSource(fn=_forward, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", point.arch, _WARP_SIZE), options=options)


def measure(point: Point) -> Resources:
    """Compile a point and assemble its PTX once more, to read what ptxas says about it."""
    kernel = compile_kernel(point)
    suffix = "a" if point.arch >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(kernel.asm["ptx"])
        command = [get_ptxas(point.arch).path, "-v", f"--gpu-name=sm_{point.arch}{suffix}", str(ptx)]
        log = subprocess.run([*command, "-o", f"{ptx}.cubin"], capture_output=True, text=True, check=True).stderr
    registers, stores, loads = (
        int(re.search(pattern, log).group(1))
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    )
    verdict = "ok"
    if "wgmma.mma_async instructions are serialized" in log:
        verdict = "serialises wgmma"
    if stores + loads:
        verdict = "spills"
    if kernel.metadata.shared > shared_memory_limit(point.arch):
        verdict = "does not fit"
    return Resources(registers, stores + loads, kernel.metadata.shared, verdict)


def measure_all(points: list[Point], jobs: int) -> Iterator[tuple[Point, Resources]]:
    """Measure each point in a process of its own, since a failing compiler pass may abort; in order of completion."""
    running: dict[Connection, tuple[Point, multiprocessing.Process]] = {}
    waiting = list(reversed(points))
    context = multiprocessing.get_context("fork")
    while waiting or running:
        while waiting and len(running) < jobs:
            receiver, sender = context.Pipe(duplex=False)
            point = waiting.pop()
            process = context.Process(target=_child, args=(point, sender))
            process.start()
            sender.close()
            running[receiver] = (point, process)
        for receiver in wait(list(running)):
            point, process = running.pop(receiver)
            result = Resources()
            with contextlib.suppress(EOFError):
                result = receiver.recv()
            process.join()
            yield point, result


def _child(point: Point, sender: Connection) -> None:
    # A failing pass prints pages of intermediate code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sender.send(measure(point))


def _argument_type(parameter: triton.runtime.jit.KernelParam, dtype: str) -> str:
    if parameter.name.endswith("_ptr"):
        return _POINTERS.get(parameter.name, f"*{dtype}")
    return parameter.annotation_type or "fp32"


def _points(options: argparse.Namespace) -> list[Point]:
    points = []
    for arch, dtype, d in itertools.product(options.arch, options.dtype, options.d):
        where = (block_d(d), DTYPES[dtype], arch)
        defaults = dict.fromkeys(default_tile(*where, causal) for causal in (False, True))
        tiles = defaults if options.defaults_only else dict.fromkeys((*defaults, *fitting_space(*where)))
        points += [Point(arch, d, dtype, tile, tile in defaults) for tile in tiles]
    return points


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kernel.resources", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities, 90 for sm_90")
    parser.add_argument("--d", type=int, nargs="+", default=(64, 128, 256), help="head dims")
    parser.add_argument("--dtype", nargs="+", choices=tuple(DTYPES), default=("fp16", "fp32"))
    parser.add_argument("--defaults-only", action="store_true", help="only the shipped defaults, not the whole space")
    parser.add_argument("--jobs", type=int, default=2, help="compilations at a time")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if a default configuration is not ok."""
    options = _parse(arguments)
    row = "{:>6} {:>4} {:>5} {:>14} {:>8} {:>10} {:>8} {:>9}  {}"
    print(row.format("arch", "d", "dtype", "tile", "default", "registers", "spilled", "shared", "verdict"))
    rows = []
    for point, cost in measure_all(_points(options), options.jobs):
        mark = "*" if point.default else ""
        fields = (f"sm_{point.arch}", point.d, point.dtype, str(point.tile), mark)
        print(row.format(*fields, cost.registers, cost.spilled, cost.shared, cost.verdict), flush=True)
        rows.append({**asdict(point), "tile": str(point.tile), **asdict(cost)})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    bad = [r for r in rows if r["default"] and r["verdict"] != "ok"]
    for r in bad:
        print(f"the default {r['tile']} of sm_{r['arch']}, d {r['d']}, {r['dtype']} {r['verdict']}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    if INTERPRETED:
        # The interpreter's functions cannot be compiled: start again without it.
        os.environ.pop("TRITON_INTERPRET")
        os.execv(sys.executable, [sys.executable, "-m", "kernel.resources", *sys.argv[1:]])
    sys.exit(main())
