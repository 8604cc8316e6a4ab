"""Tiles of the backward pass: one for the kernel of dK and dV, one for that of dQ; what fits, and what ships."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

from .config import (
    _REGISTERS_FOR_TILES,
    _REGISTERS_PER_FMA_ELEMENT,
    _WARP_SIZE,
    TileConfig,
    _tiles,
    like,
    shared_memory_limit,
)
from .defaults import default_backward


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


INTERPRETER_TILES = BackwardTiles.parse("64x64x4x1")

KV_SPACE = _tiles(
    "64x128x8x2",
    "64x128x8x1",
    "128x128x8x2",
    "64x64x4x2",
    "64x64x8x1",
    "32x64x4x2",
    "32x64x8x1",
    "32x32x8x1",
    "16x64x8x2",
)
Q_SPACE = _tiles("128x128x8x2", "128x64x8x2", "64x64x4x2", "64x64x8x1", "64x32x8x2", "64x32x8x1")
FMA_SPACE = _tiles("32x32x8x1", "32x32x4x1", "16x32x8x1", "16x16x8x1")


def default_tiles(BLOCK_D: int, dtype: torch.dtype, arch: int, causal: bool) -> BackwardTiles:
    """The shipped tiles for a head-dim tile; arch 0 is the interpreter."""
    return BackwardTiles.parse(default_backward(BLOCK_D, dtype, arch, causal).tile) if arch else INTERPRETER_TILES


def fitting_tiles(BLOCK_D: int, dtype: torch.dtype, arch: int, causal: bool) -> tuple[BackwardTiles, ...]:
    """What autotuning tries: each tile of either kernel that fits, beside the shipped one of the other."""
    if not arch:
        return (INTERPRETER_TILES,)
    kv_space, q_space = (FMA_SPACE, FMA_SPACE) if dtype == torch.float32 else (KV_SPACE, Q_SPACE)
    pairs = itertools.starmap(BackwardTiles, itertools.product(kv_space, q_space))
    return tuple(pair for pair in pairs if fits(pair, BLOCK_D, dtype, arch))


def fits(tiles: BackwardTiles, BLOCK_D: int, dtype: torch.dtype, arch: int) -> bool:
    """Whether both kernels are expected to fit an architecture's shared memory and registers."""
    limit = shared_memory_limit(arch)
    return all(
        shared_memory(own, other, BLOCK_D, tile.num_stages, dtype, arch, gradients) <= limit
        and registers(own, other, BLOCK_D, tile.num_warps, dtype, gradients) <= _REGISTERS_FOR_TILES
        for tile, gradients, own, other in (
            (tiles.kv, 2, tiles.kv.BLOCK_N, tiles.kv.BLOCK_M),
            (tiles.q, 1, tiles.q.BLOCK_M, tiles.q.BLOCK_N),
        )
    )


def shared_memory(
    own: int, other: int, BLOCK_D: int, stages: int, dtype: torch.dtype, arch: int, gradients: int
) -> int:
    """Estimate in bytes for the kernel that sums so many gradients of `own` rows over tiles of `other` rows.

    Two tensors of `own` rows once, two of `other` rows a stage (before sm_90 one fewer), the row statistics, and where
    wgmma does not take P and dS from registers (sm_90 alone does so) another tile, as compiled.
    """
    staged = max(1, stages - (like(arch) < 90))
    staging = own * BLOCK_D if like(arch) >= 100 or (gradients == 2 and like(arch) < 90) else 0
    return (2 * (own + staged * other) * BLOCK_D + staging) * dtype.itemsize + 8 * stages * other + 256


def registers(own: int, other: int, BLOCK_D: int, warps: int, dtype: torch.dtype, gradients: int) -> int:
    """Estimate per thread: the sums of the gradients, scores and dP, in fp32."""
    elements = gradients * own * BLOCK_D + 2 * own * other
    each = _REGISTERS_PER_FMA_ELEMENT if dtype == torch.float32 else 1
    return each * elements // (warps * _WARP_SIZE)
