"""The Hopper path: the Gluon kernel of `device/forward.py`, for fp16 and bf16 on sm_90."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import triton

from ..call.launch import INTERPRETED, Launch
from ..call.plan import Plan
from ..call.problem import Problem
from ..portable.bind import split_scale
from ..tiles.config import block_d, device_arch

TRITONS = ("3.6.", "3.7.")
"""Versions of Triton with which the kernel has run on a GPU: Gluon is experimental and changes."""
ROWS = 64
"""Query rows of a warpgroup, which are those of a wgmma."""
WORTH_IT = 129
"""Query rows from which the path is chosen: below, the portable path's shorter tiles fill more of the device."""
_ALIGNMENT = 8
"""Elements in 16 bytes, the unit of TMA."""
_LONGEST_STRIDE = 2**40
"""Bytes from which TMA takes no stride."""
_MOST_ROWS = 2**31 - 2**12
"""Rows, and tiles of all heads, from which 32-bit sums of a row and a tile's height, or of a tile and the grid's size,
may overflow; tensors with that many fit where rows overlap."""


class HopperTile(NamedTuple):
    """BLOCK_M query rows against BLOCK_N keys, with rings of `slots` K and V tiles and `q_slots` Q tiles."""

    BLOCK_M: int
    BLOCK_N: int
    slots: int
    q_slots: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def groups(self) -> int:
        """Warpgroups that compute."""
        return self.BLOCK_M // ROWS

    @property
    def registers(self) -> int:
        """A thread's, of those warpgroups: the 65,536 of a multiprocessor less 24 for each thread that loads."""
        return {2: 240, 3: 160}[self.groups]


# What fits and does not spill in its loops, by head-dim tile; of two that cost the same the first is best on an H100
# where nothing is causal, the second where something is.
TILES: dict[int, tuple[HopperTile, ...]] = {
    64: (HopperTile(192, 128, 4, 2), HopperTile(128, 128, 3, 2)),
    128: (HopperTile(128, 128, 2, 2), HopperTile(128, 128, 2, 1)),
    256: (HopperTile(128, 64, 2, 1),),
}
# Time for a row and a key by warpgroups that compute, in units of its own for causal problems, as an H100 showed it at
# d 64 where it is full.
_PACE = {2: 5, 3: 4}
_CAUSAL_PACE = {2: 100, 3: 99}


@dataclass(frozen=True)
class Hopper:
    """A `plan.Path`; its tiles read "128x128x2x1" (query rows x keys x K and V slots x Q slots).

    least_rows: fewer query rows are refused.
    """

    least_rows: int = 1
    name: ClassVar[str] = "hopper"

    def refusal(self, problem: Problem) -> str | None:
        """Why the problem is not one for the kernel, or None."""
        if problem.Nq < self.least_rows:
            return f"there are fewer than {self.least_rows} query rows"
        return device_refusal(problem.device) or problem_refusal(problem)

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """The tiles of the head dim, the default first."""
        return tuple(map(str, tiles_of(problem)))

    def plan(self, problem: Problem, config: str | None = None) -> Plan:
        """The plan at a tile or at the shipped one."""
        tile = tiles_of(problem)[0] if config is None else _parse(config, problem)
        return Plan(self.name, str(tile), _launch(problem, tile))


def tiles_of(problem: Problem, processors: int | None = None) -> tuple[HopperTile, ...]:
    """The tiles of a problem, the shipped one first: that whose busiest multiprocessor finishes first.

    processors: multiprocessors of the device, by default as it says. The choice depends on the batch and the heads too,
    which may change no bit of a row: tiles of a head dim differ only in rows and slots, never in BLOCK_N, so that each
    row meets the same keys in the same steps.
    """
    tiles = known_tiles(problem.d)
    time = functools.partial(_longest, problem, processors or multiprocessors(problem.device))
    return tuple(sorted(tiles[::-1] if problem.causal else tiles, key=time))


def known_tiles(d: int) -> tuple[HopperTile, ...]:
    """All tiles for a head dim."""
    return TILES[tile_width(d)]


def tile_width(d: int) -> int:
    """The columns that a head dim takes in a tile."""
    return max(64, block_d(d))


def _longest(problem: Problem, processors: int, tile: HopperTile) -> int:
    """Time of the busiest multiprocessor: its turns by what one takes, where few tall tiles leave others idle."""
    turns = -(-_units(problem, tile) // processors)
    if problem.causal:
        # Of a pair of tiles one sees what the other does not.
        return turns * tile.BLOCK_M * (problem.Nk + tile.BLOCK_M) * _CAUSAL_PACE[tile.groups]
    return turns * tile.BLOCK_M * problem.Nk * _PACE[tile.groups]


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """A CUDA device's, each of which runs one program of a Hopper kernel at once."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def is_masked(problem: Problem, BLOCK_N: int) -> bool:
    """Whether some row may see part of a tile of BLOCK_N keys."""
    return problem.causal or problem.seqlens_dtype is not None or problem.Nk % BLOCK_N != 0


def _parse(config: str, problem: Problem) -> HopperTile:
    """ValueError where the tile cannot be read, NotImplementedError where it is none of the head dim's."""
    if re.fullmatch(r"\d+x\d+x\d+x\d+", config) is None:
        raise ValueError(
            f"config hopper: must read like {TILES[128][0]} (rows x keys x K and V slots x Q slots), got {config!r}"
        )
    tile = HopperTile(*map(int, config.split("x")))
    if tile not in known_tiles(problem.d):
        known = ", ".join(map(str, known_tiles(problem.d)))
        raise NotImplementedError(f"config hopper:{config} must be one of {known} for this head dim")
    return tile


@functools.cache
def device_refusal(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device, or None."""
    if INTERPRETED:
        return "Triton's interpreter does not run Gluon"
    if device_arch(device) != 90:
        return f"it is written for sm_90, and the device is sm_{device_arch(device)}"
    if not triton.__version__.startswith(TRITONS):
        return f"it has not been run with Triton {triton.__version__}"
    return None


def problem_refusal(problem: Problem) -> str | None:
    """Why the kernels do not take what a call says of itself, or None."""
    if problem.dtype not in (torch.float16, torch.bfloat16):
        return "the dtype is not float16 or bfloat16"
    if problem.d % _ALIGNMENT or problem.d <= 32:
        return "the head dim is not a multiple of 8 from 40 to 256"
    if problem.Nk == 0 or problem.heads == 0:
        return "there are no keys or no heads"
    if split_scale(problem.scale)[0] == 0:
        return "the scale is 0"
    if max(problem.Nq, problem.Nk, problem.heads * triton.cdiv(problem.Nq, ROWS)) >= _MOST_ROWS:
        return "there are too many rows for 32-bit integers"
    if not all(problem.aligned):
        return "a tensor does not begin at a multiple of 16 bytes"
    sizes = ((problem.B, problem.Hq, problem.Nq), *2 * ((problem.B, problem.Hk, problem.Nk),))
    if not all(takes_strides(strides, size) for strides, size in zip(problem.strides, sizes, strict=True)):
        return "the strides are not 1 along the head dim and positive multiples of 8 elsewhere"
    return None


def takes_strides(strides: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether TMA takes the strides of a tensor whose first three sizes are given."""
    used = [stride for stride, size in zip(strides, sizes, strict=False) if size > 1]
    return strides[3] == 1 and all(s > 0 and s % _ALIGNMENT == 0 and 2 * s < _LONGEST_STRIDE for s in used)


def _launch(problem: Problem, tile: HopperTile) -> Launch:
    """What runs the kernel on q, k, v, O, LSE and seqlens_k."""
    # Imported here: where the path is refused, Gluon need not be there.
    from .device.forward import _forward_hopper

    arguments, blocks = _arguments(problem, tile), _blocks(problem, tile)
    return persistent(_forward_hopper, _units(problem, tile), arguments, problem.device, blocks)


def _units(problem: Problem, tile: HopperTile) -> int:
    """What programs share among them: query tiles of all heads, or pairs of them where causal."""
    q_tiles = -(-problem.Nq // tile.BLOCK_M)
    return problem.heads * ((q_tiles + 1) // 2 if problem.causal else q_tiles)


def persistent(
    kernel: Any, units: int, arguments: tuple[Any, ...], device: torch.device, blocks: tuple[Block, ...]
) -> Launch:
    """A launch of as many programs as the device has multiprocessors, or as there are units for them to share."""
    return Launch(kernel, (min(units, multiprocessors(device)),), arguments, {"num_warps": 4}, device, blocks)


def _arguments(problem: Problem, tile: HopperTile) -> tuple[Any, ...]:
    """The kernel's, after its tensors."""
    sign, scale_log2 = split_scale(problem.scale)
    return (
        *(problem.seqlens_stride, problem.Hq, problem.group, problem.Nq, problem.Nk),
        *(triton.cdiv(problem.Nq, tile.BLOCK_M), int(problem.alignment == "lower_right"), _units(problem, tile)),
        *(scale_log2, tile.groups, tile.slots, tile.q_slots, tile.registers, problem.causal),
        *(is_masked(problem, tile.BLOCK_N), sign < 0),
    )


class Block:
    """The blocks of rows x columns in which TMA reads or writes a tensor, whose sizes and strides are given.

    16 bits are for wgmma, in its swizzle; 32 are read as they lie, unless a swizzle (in bytes) is given.
    """

    def __init__(
        self, sizes: tuple[int, ...], strides: tuple[int, ...], rows: int, columns: int, bits: int, swizzle: int = 0
    ) -> None:
        from triton.experimental.gluon.language import NVMMASharedLayout
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        self.descriptor = TensorDescriptor
        self.block = [*(1 for _ in sizes[2:]), rows, columns]
        self.sizes = list(sizes)
        # A stride that is never used must be legal all the same.
        self.strides = [stride or sizes[-1] for stride in strides]
        swizzle = 128 if bits == 16 else swizzle
        self.layout = NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=len(sizes))
        self.checked: dict[str, Any] | None = None

    def of(self, x: torch.Tensor) -> object:
        """The tensor's descriptor; what Triton checks of it is checked once, since a plan's tensors are alike."""
        if self.checked is None:
            descriptor = self.descriptor(x, self.sizes, self.strides, self.block, self.layout)
            self.checked = {name: value for name, value in vars(descriptor).items() if name != "base"}
            return descriptor
        descriptor = object.__new__(self.descriptor)
        vars(descriptor).update(self.checked, base=x)
        return descriptor


def _blocks(problem: Problem, tile: HopperTile) -> tuple[Block, ...]:
    """Those of q, k, v and O; O is contiguous, and its columns are written in two halves where they are many."""
    width, bits = tile_width(problem.d), 8 * problem.dtype.itemsize
    q_sizes = (problem.B, problem.Hq, problem.Nq, problem.d)
    kv_sizes = (problem.B, problem.Hk, problem.Nk, problem.d)
    o_strides = (problem.Hq * problem.Nq * problem.d, problem.Nq * problem.d, problem.d, 1)
    q, k, v = problem.strides
    return (
        Block(q_sizes, q, ROWS, width, bits),
        Block(kv_sizes, k, tile.BLOCK_N, width, bits),
        Block(kv_sizes, v, tile.BLOCK_N, width, bits),
        Block(q_sizes, o_strides, ROWS, min(width, 128), bits),
    )
