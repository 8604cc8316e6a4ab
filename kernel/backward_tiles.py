"""Tiles of the backward pass: one for the kernel of dK and dV, one for that of dQ; what fits, and what ships."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

from .defaults import default_backward
from .tiles import _WARP_SIZE, TileConfig, _tiles, like, shared_memory_limit


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

_KV_SPACE = _tiles("64x128x8x2", "64x128x8x1", "128x128x8x2", "64x64x4x2", "64x64x8x1", "32x64x4x1", "32x64x8x1")
_Q_SPACE = _tiles("128x128x8x2", "128x64x8x2", "64x64x4x2", "64x64x8x1", "64x32x4x1")
_FMA_SPACE = _tiles("32x32x8x1", "32x32x4x1", "16x32x8x1", "16x16x8x1")
# Accumulators, scores and dP may take so many of a thread's 255 registers; the rest are addresses and statistics.
_REGISTERS_FOR_TILES = 200
_REGISTERS_PER_FMA_ELEMENT = 6


def default_tiles(BLOCK_D: int, dtype: torch.dtype, arch: int, causal: bool) -> BackwardTiles:
    """The shipped tiles for a head-dim tile; arch 0 is the interpreter."""
    return BackwardTiles.parse(default_backward(BLOCK_D, dtype, arch, causal).tile) if arch else INTERPRETER_TILES


def fitting_tiles(BLOCK_D: int, dtype: torch.dtype, arch: int, causal: bool) -> tuple[BackwardTiles, ...]:
    """What autotuning tries: each tile of either kernel that fits, beside the shipped one of the other."""
    if not arch:
        return (INTERPRETER_TILES,)
    kv_space, q_space = (_FMA_SPACE, _FMA_SPACE) if dtype == torch.float32 else (_KV_SPACE, _Q_SPACE)
    pairs = itertools.starmap(BackwardTiles, itertools.product(kv_space, q_space))
    return tuple(pair for pair in pairs if fits(pair, BLOCK_D, dtype, arch))


def fits(tiles: BackwardTiles, BLOCK_D: int, dtype: torch.dtype, arch: int) -> bool:
    """Whether both kernels are expected to fit an architecture's shared memory and registers."""
    limit = shared_memory_limit(arch)
    return all(
        shared_memory(*sizes, BLOCK_D, tile.num_stages, dtype, arch) <= limit
        and registers(*sizes, BLOCK_D, tile.num_warps, dtype, outputs) <= _REGISTERS_FOR_TILES
        for tile, outputs, sizes in (
            (tiles.kv, 2, (tiles.kv.BLOCK_N, tiles.kv.BLOCK_M)),
            (tiles.q, 1, (tiles.q.BLOCK_M, tiles.q.BLOCK_N)),
        )
    )


def shared_memory(own: int, other: int, BLOCK_D: int, stages: int, dtype: torch.dtype, arch: int) -> int:
    """Estimate in bytes: two tensors of `own` rows once, two of `other` rows a stage, dS once, and the statistics."""
    staged = max(1, stages - (like(arch) < 90))
    return (2 * (own + staged * other) * BLOCK_D + own * other) * dtype.itemsize + 8 * stages * other + 1024


def registers(own: int, other: int, BLOCK_D: int, warps: int, dtype: torch.dtype, outputs: int) -> int:
    """Estimate per thread: the sums of `outputs` gradients, scores and dP, in fp32."""
    elements = outputs * own * BLOCK_D + 2 * own * other
    each = _REGISTERS_PER_FMA_ELEMENT if dtype == torch.float32 else 1
    return each * elements // (warps * _WARP_SIZE)
