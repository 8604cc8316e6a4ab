"""Tile configurations: the space, and what fits a device; `defaults.py` has the one that ships for each problem."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")
_TILE_SIZES = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4, 8, 16)
_STAGES = range(1, 9)
# Of 255 registers a thread, the rest goes to addresses, masks and row statistics.
_REGISTERS_FOR_TILES = 208
# tl.dot without tensor cores keeps the operands of each accumulator element too: about 6 registers, as compiled.
_REGISTERS_PER_FMA_ELEMENT = 6
_WARP_SIZE = 32

# Shared memory one block may use, in bytes, by compute capability (CUDA C++ Programming Guide, "Technical
# Specifications per Compute Capability"): https://docs.nvidia.com/cuda/cuda-c-programming-guide/
SHARED_MEMORY = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
}


@dataclass(frozen=True, order=True)
class TileConfig:
    """A tile: BLOCK_M query rows against BLOCK_N keys, on num_warps warps with num_stages pipeline stages."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for name, legal in (("BLOCK_M", _TILE_SIZES), ("BLOCK_N", _TILE_SIZES), ("num_warps", _WARPS)):
            if getattr(self, name) not in legal:
                raise ValueError(f"config must have {name} in {legal}, got {getattr(self, name)}")
        if self.num_stages not in _STAGES:
            raise ValueError(f"config must have num_stages in 1..{_STAGES[-1]}, got {self.num_stages}")

    def __str__(self) -> str:
        return f"{self.BLOCK_M}x{self.BLOCK_N}x{self.num_warps}x{self.num_stages}"

    def blocks(self) -> dict[str, int]:
        """The constexprs of the kernel."""
        return {"BLOCK_M": self.BLOCK_M, "BLOCK_N": self.BLOCK_N}

    def options(self) -> dict[str, int]:
        """The constexprs and the launch options."""
        return {**self.blocks(), "num_warps": self.num_warps, "num_stages": self.num_stages}

    @classmethod
    def parse(cls, text: str) -> TileConfig:
        """Read the pinned form "BLOCK_MxBLOCK_NxWARPSxSTAGES", such as "64x64x4x3"; ValueError otherwise."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(
                f'config must be "autotune" or read like "64x64x4x3" (M x N x warps x stages) or name a path, '
                f'such as "portable", got {text!r}'
            )
        return cls(*(int(number) for number in match.groups()))


def _tiles(*texts: str) -> tuple[TileConfig, ...]:
    return tuple(TileConfig.parse(text) for text in texts)


# Tensor cores take fp16 and bf16; fp32 in full precision has none, and its products fill the registers much sooner.
TENSOR_CORE_SPACE = _tiles(
    *("128x128x8x4", "128x128x8x2", "128x64x4x3", "128x64x8x3", "128x64x8x2"),
    *("64x64x4x3", "64x64x4x2", "64x64x8x2", "64x64x8x1", "64x32x8x2", "32x32x4x2"),
)
FMA_SPACE = _tiles("64x32x8x1", "32x32x8x2", "32x32x8x1", "32x32x4x1", "16x32x8x1", "16x32x4x1", "16x16x8x1")

# The interpreter runs one operation at a time, so few large tiles are fastest and there is nothing to tune.
INTERPRETER_TILE = TileConfig(64, 64, 4, 1)


def block_d(d: int) -> int:
    """Width of the head-dim tile: the next power of two, at least the 16 that `tl.dot` needs."""
    return max(16, 1 << (d - 1).bit_length())


def device_arch(device: torch.device) -> int:
    """Compute capability as one number, 90 for an H100."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def shared_memory_limit(arch: int) -> int:
    """Bytes of shared memory one block may use; an unknown architecture counts as its nearest older relative."""
    known = [a for a in SHARED_MEMORY if a <= arch]
    return SHARED_MEMORY[max(known)] if known else min(SHARED_MEMORY.values())


def space() -> tuple[TileConfig, ...]:
    """Every configuration that autotuning knows, for all devices and dtypes together."""
    return tuple(dict.fromkeys(TENSOR_CORE_SPACE + FMA_SPACE))


def fitting_space(BLOCK_D: int, dtype: torch.dtype, arch: int) -> tuple[TileConfig, ...]:
    """The configurations worth trying: those of the dtype that fit the device by shared memory and registers."""
    tiles = FMA_SPACE if dtype == torch.float32 else TENSOR_CORE_SPACE
    return tuple(
        tile
        for tile in tiles
        if shared_memory(tile, BLOCK_D, dtype, arch) <= shared_memory_limit(arch)
        and registers(tile, BLOCK_D, dtype, arch) <= _REGISTERS_FOR_TILES
    )


def like(arch: int) -> int:
    """The architecture whose way of multiplying this one shares: sm_120 has no wgmma and no tensor memory, as sm_89."""
    return 89 if arch >= 120 else arch


def check_pinned(tile: TileConfig, BLOCK_D: int, dtype: torch.dtype, arch: int) -> None:
    """NotImplementedError for a pinned tile that cannot run on the device, or that would compile for minutes.

    A tile that merely spills registers is allowed: it is slow and right.
    """
    where = f"d up to {BLOCK_D} in {str(dtype).removeprefix('torch.')} on sm_{arch}"
    needed, limit = shared_memory(tile, BLOCK_D, dtype, arch), shared_memory_limit(arch)
    if needed > limit:
        raise NotImplementedError(f"config {tile} needs {needed} bytes of shared memory of {limit} for {where}")
    if dtype == torch.float32 and registers(tile, BLOCK_D, dtype, arch) > _REGISTERS_FOR_TILES:
        raise NotImplementedError(f"config {tile} has too many products per thread without tensor cores for {where}")


def shared_memory(tile: TileConfig, BLOCK_D: int, dtype: torch.dtype, arch: int) -> int:
    """Upper estimate in bytes: Q once, K and V once per stage (before sm_90 one buffer fewer), 1 KB for reductions."""
    buffers = max(2, 2 * tile.num_stages - (like(arch) < 90))
    return (tile.BLOCK_M + buffers * tile.BLOCK_N) * BLOCK_D * dtype.itemsize + 1024


def registers(tile: TileConfig, BLOCK_D: int, dtype: torch.dtype, arch: int) -> int:
    """Estimate per thread for the tiles alone: O and scores in fp32, K on its way to shared memory, Q before sm_90."""
    o, scores = tile.BLOCK_M * BLOCK_D, tile.BLOCK_M * tile.BLOCK_N
    threads = tile.num_warps * _WARP_SIZE
    if dtype == torch.float32:
        return _REGISTERS_PER_FMA_ELEMENT * (o + scores) // threads
    staged = tile.BLOCK_N * BLOCK_D // 2 + (o // 2 if like(arch) < 90 else 0)
    return (o + scores + staged) // threads
