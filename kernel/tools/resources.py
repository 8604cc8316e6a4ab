"""Compile the kernel ahead of time, with no GPU, and report what each tile configuration costs.

python -m kernel.tools.resources [--arch 80 89 90 100] [--d 64 128 256] [--dtype fp16 fp32] [--defaults-only] [--jobs 2]
                           [--json FILE]

Registers and spilled bytes are a thread's, from `ptxas -v`; shared memory is a block's. fp16 stands for bf16 too, which
takes the same registers. All tiles of the Hopper paths are compiled whenever sm_90 is. Exit 1 if a default one
or one of those spills, serialises wgmma, does not fit or does not compile, or reads a register that nothing wrote.
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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource, CompiledKernel

from ..call.arguments import DTYPES
from ..call.launch import INTERPRETED
from ..hopper import backward as hopper_backward
from ..hopper import backward_fused
from ..hopper.forward import TILES, HopperTile
from ..portable import decode
from ..portable.device.backward import _backward_kv, _backward_q
from ..portable.device.decode import _decode
from ..portable.device.forward import _forward
from ..tiles.config import TileConfig, Where, block_d, shared_memory_limit
from ..tiles.defaults import default_pair, default_tile
from ..tiles.space import FORWARD
from . import hopper_ahead
from .assembly import disassemble, unwritten
from .hopper_ahead import VARIANTS, Variant, compile_hopper, compile_hopper_fused, compile_hopper_kv, compile_hopper_q

ARCHITECTURES = (80, 89, 90, 100)
FUSED = "hopper dQ dK dV"
HOPPER: dict[str, Callable[..., CompiledKernel]] = {
    "hopper": compile_hopper,
    "hopper dK dV": compile_hopper_kv,
    "hopper dQ": compile_hopper_q,
    FUSED: compile_hopper_fused,
}
"""What compiles the kernels of the Hopper paths."""
BACKWARD_KV, BACKWARD_Q = "dK dV", "dQ"
# Without tensor cores dK and dV of a head dim past 128 fill more registers than there are, at every tile.
_SPILLED_WITHOUT_TENSOR_CORES = 1536
_WARP_SIZE = 32
_POINTERS = {
    **{"lse_ptr": "*fp32", "seqlens_ptr": "*i32"},
    **{"acc_ptr": "*fp32", "m_ptr": "*fp32", "l_ptr": "*fp32"},
    **{"delta_ptr": "*fp32", "dlse_ptr": "*fp32"},
}
_BACKWARD: dict[str, object] = {"FAST_DO": True, "ZERO_SCALE": False}
# Each path's kernel and the constants of its own.
_KERNELS: dict[str, tuple[Any, dict[str, object]]] = {
    "portable": (_forward, {"SIGN": 1}),
    "decode": (_decode, {"SIGN": 1, "SPLIT": True}),
    BACKWARD_KV: (_backward_kv, {**_BACKWARD, "NEED_K": True, "NEED_V": True}),
    BACKWARD_Q: (_backward_q, _BACKWARD),
}


@dataclass(frozen=True)
class Point:
    """One compilation: an architecture, a head dim, a dtype and a tile of a path; variant: the Hopper path's."""

    arch: int
    d: int
    dtype: str
    tile: TileConfig | HopperTile | hopper_backward.Tile | backward_fused.FusedTile
    default: bool
    path: str = "portable"
    variant: Variant | None = None

    @property
    def spills_allowed(self) -> int:
        """Bytes that a thread may spill without harm."""
        if self.path == BACKWARD_KV and self.dtype == "fp32" and self.d > 128:
            return _SPILLED_WITHOUT_TENSOR_CORES
        if self.path == FUSED:
            return hopper_ahead.SPILLED_FUSED
        return hopper_ahead.SPILLED if self.path in HOPPER else 0


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
    kernel, own = _KERNELS[point.path]
    assert isinstance(point.tile, TileConfig)
    constants: dict[str, object] = {
        "BLOCK_D": block_d(point.d),
        "PAD_D": point.d != block_d(point.d),
        **{"CAUSAL": True, "HAS_SEQLENS": True, "FAST": True, "WIDE": False, "WIDEN": False},
        **own,
        **point.tile.blocks(),
        **constexprs,
    }
    signature = {p.name: "constexpr" if p.name in constants else _argument_type(p, point.dtype) for p in kernel.params}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", point.arch, _WARP_SIZE), options=point.tile.options())


def measure(point: Point) -> Resources:
    """Compile a point and assemble its PTX once more, to read what ptxas says about it."""
    if point.path in HOPPER:
        kernel = HOPPER[point.path](point.tile, point.d, point.dtype, point.variant or VARIANTS[-1])
    else:
        kernel = compile_kernel(point)
    log = _ptxas_log(kernel, point.arch)
    registers, stores, loads = (
        int(re.findall(pattern, log)[0])
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    )
    verdict = _verdict(point, kernel, log, stores + loads)
    return Resources(registers, stores + loads, kernel.metadata.shared, verdict)


def _ptxas_log(kernel: CompiledKernel, arch: int) -> str:
    suffix = "a" if arch >= 90 else ""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(kernel.asm["ptx"])
        command = [get_ptxas(arch).path, "-v", f"--gpu-name=sm_{arch}{suffix}", str(ptx), "-o", f"{ptx}.cubin"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _verdict(point: Point, kernel: CompiledKernel, log: str, spilled: int) -> str:
    """The worst that there is to say, or "ok"."""
    if kernel.metadata.shared > shared_memory_limit(point.arch):
        return "does not fit"
    # What a wrong product comes from; `assembly` knows the syntax of sm_90, where descriptors are in such registers.
    if point.path in HOPPER and unwritten(disassemble(kernel.asm["cubin"])):
        return "reads what nothing wrote"
    if "wgmma.mma_async instructions are serialized" in log:
        return "serialises wgmma"
    return "spills" if spilled > point.spills_allowed else "ok"


def measure_all(points: list[Point], jobs: int) -> Iterator[tuple[Point, Resources]]:
    """Measure each point in a process of its own, since a failing compiler pass may abort; in order of completion."""
    running: dict[Any, tuple[Point, BaseProcess]] = {}
    waiting = list(reversed(points))
    context = multiprocessing.get_context("fork")
    while waiting or running:
        while waiting and len(running) < jobs:
            receiver, sender = context.Pipe(duplex=False)
            point = waiting.pop()
            process: BaseProcess = context.Process(target=_child, args=(point, sender))
            process.start()
            sender.close()
            running[receiver] = (point, process)
        for answered in wait(list(running)):
            point, process = running.pop(answered)
            result = Resources()
            with contextlib.suppress(EOFError):
                result = cast(Any, answered).recv()
            process.join()
            yield point, result


def _child(point: Point, sender: Any) -> None:
    # A failing pass prints pages of intermediate code.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sender.send(measure(point))


def _argument_type(parameter: triton.runtime.jit.KernelParam, dtype: str) -> str:
    if parameter.name.endswith("_ptr"):
        return _POINTERS.get(parameter.name, f"*{dtype}")
    return parameter.annotation_type or "fp32"


def _points(options: argparse.Namespace) -> list[Point]:
    points: list[Point] = []
    for arch, dtype, d in itertools.product(options.arch, options.dtype, options.d):
        where = Where(block_d(d), DTYPES[dtype], arch)
        defaults = dict.fromkeys(default_tile(where, causal) for causal in (False, True))
        tiles = defaults if options.defaults_only else dict.fromkeys((*defaults, *FORWARD.fitting(where)))
        points += [Point(arch, d, dtype, tile, tile in defaults) for tile in tiles]
        points.append(Point(arch, d, dtype, decode.default_tile(where), True, "decode"))
        for causal in (False, True):
            kv, q = default_pair(where, causal)
            points += [Point(arch, d, dtype, kv, True, BACKWARD_KV), Point(arch, d, dtype, q, True, BACKWARD_Q)]
    return list(dict.fromkeys((*points, *_hopper_points(options))))


def _hopper_points(options: argparse.Namespace) -> Iterator[Point]:
    """The Hopper paths': all variants of all tiles, and besides fp16 one variant of each head dim in bf16."""
    if hopper_ahead.ARCH not in options.arch or not hopper_ahead.AVAILABLE:
        return
    for path, d in itertools.product(HOPPER, options.d):
        tiles = _hopper_tiles(path, d)
        for dtype, tile, variant in itertools.product(options.dtype, tiles, VARIANTS):
            if dtype != "fp32":
                yield Point(hopper_ahead.ARCH, d, dtype, tile, True, path, variant)
        if "fp16" in options.dtype and tiles:
            yield Point(hopper_ahead.ARCH, d, "bf16", tiles[0], True, path, VARIANTS[-1])


def _hopper_tiles(path: str, d: int) -> tuple[HopperTile | hopper_backward.Tile | backward_fused.FusedTile, ...]:
    if path == "hopper":
        return TILES.get(d, ())
    if path == FUSED:
        return backward_fused.TILES.get(d, ())
    pairs = hopper_backward.TILES.get(d, ())
    return tuple(dict.fromkeys(pair.kv if path == "hopper dK dV" else pair.q for pair in pairs))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kernel.tools.resources", description=__doc__.split("\n")[0])
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
    row = "{:>6} {:>4} {:>5} {:>9} {:>14} {:>15} {:>8} {:>10} {:>8} {:>9}  {}"
    names = ("arch", "d", "dtype", "path", "tile", "variant", "default", "registers", "spilled", "shared", "verdict")
    print(row.format(*names))
    rows = []
    for point, cost in measure_all(_points(options), options.jobs):
        mark = "*" if point.default else ""
        variant = str(point.variant or "")
        fields = (f"sm_{point.arch}", point.d, point.dtype, point.path, str(point.tile), variant, mark)
        print(row.format(*fields, cost.registers, cost.spilled, cost.shared, cost.verdict), flush=True)
        rows.append({**asdict(point), "tile": str(point.tile), "variant": variant, **asdict(cost)})
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
        os.execv(sys.executable, [sys.executable, "-m", "kernel.tools.resources", *sys.argv[1:]])
    sys.exit(main())
