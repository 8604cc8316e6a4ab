"""How large a tile is and on which device it runs; `space.py` says what fits, and `defaults.py` which tile ships."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch

_PATTERN = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")
_TILE_SIZES = (16, 32, 64, 128, 256)
_WARPS = (1, 2, 4, 8, 16)
_STAGES = range(1, 9)

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
        """The launch options."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}

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


# The interpreter runs one operation at a time, so few large tiles are fastest and there is nothing to tune.
INTERPRETER_TILE = TileConfig(64, 64, 4, 1)


class BackwardTiles(NamedTuple):
    """The tile of the kernel of dK and dV, and that of the kernel of dQ: query rows x keys x warps x stages each."""

    kv: TileConfig
    q: TileConfig

    def __str__(self) -> str:
        return f"{self.kv}+{self.q}"

    @classmethod
    def parse(cls, text: str) -> BackwardTiles:
        """Read "64x128x8x2+128x64x8x2", or one tile for both kernels; ValueError otherwise."""
        kv, plus, q = text.partition("+")
        return cls(TileConfig.parse(kv), TileConfig.parse(q if plus else kv))

    @classmethod
    def of(cls, tile: TileConfig) -> BackwardTiles:
        """Both kernels at one tile, in one stage."""
        one = TileConfig(tile.BLOCK_M, tile.BLOCK_N, tile.num_warps, 1)
        return cls(one, one)


class Where(NamedTuple):
    """What decides which tiles fit: the width of the head-dim tile, the dtype, and the architecture.

    arch: the compute capability as one number, 90 for sm_90; 0 is the interpreter.
    """

    BLOCK_D: int
    dtype: torch.dtype
    arch: int

    def __str__(self) -> str:
        return f"d up to {self.BLOCK_D} in {str(self.dtype).removeprefix('torch.')} on sm_{self.arch}"


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


def like(arch: int) -> int:
    """The architecture whose way of multiplying this one shares: sm_120 has no wgmma and no tensor memory, as sm_89."""
    return 89 if arch >= 120 else arch
