"""Tile configurations: the space, what fits a device, and the shipped default of each (arch, dtype, head dim)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")
_TILE_SIZES = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4, 8, 16)
_STAGES = range(1, 9)
_MAX_REGISTERS = 255

# Shared memory one block may use, in bytes, by compute capability (CUDA C++ Programming Guide, "Technical Specifications
# per Compute Capability"): https://docs.nvidia.com/cuda/cuda-c-programming-guide/
SHARED_MEMORY = {
    75: 65_536,
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
            raise ValueError(f'config must be "autotune" or read like "64x64x4x3" (M x N x warps x stages), got {text!r}')
        return cls(*(int(number) for number in match.groups()))


# The interpreter runs one operation at a time, so few large tiles are fastest and there is nothing to tune.
INTERPRETER_TILE = TileConfig(64, 64, 4, 1)


def parse_config(config: TileConfig | str | None) -> TileConfig | str | None:
    """Return None, "autotune" or a `TileConfig`; TypeError or ValueError for anything else."""
    if config is None or config == "autotune" or isinstance(config, TileConfig):
        return config
    if not isinstance(config, str):
        raise TypeError(f"config must be None, a string or a TileConfig, got {type(config).__name__}")
    return TileConfig.parse(config)


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


_SPACE = tuple(
    TileConfig.parse(text)
    for text in (
        *("64x64x4x3", "64x64x4x2", "128x64x4x3", "128x64x8x3", "128x64x8x2", "128x128x8x2", "128x128x8x4"),
        *("64x32x4x2", "64x32x4x3", "64x64x8x2", "128x32x8x2", "32x32x4x2", "32x32x4x1", "16x32x4x1"),
    )
)


def space() -> tuple[TileConfig, ...]:
    """Every configuration that autotuning knows, for all devices together."""
    return _SPACE


def fitting_space(BLOCK_D: int, dtype: torch.dtype, arch: int) -> tuple[TileConfig, ...]:
    """The part of the space that fits the device by shared memory and registers."""
    return _SPACE


def default_tile(BLOCK_D: int, dtype: torch.dtype, arch: int) -> TileConfig:
    """The shipped configuration."""
    return _SPACE[0]
