"""The tiles that autotuning tries for each of the portable kernels, and what fits a device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .config import BackwardTiles, TileConfig, Where, like, shared_memory_limit

# Of 255 registers a thread, the rest goes to addresses, masks and row statistics.
_REGISTERS_FOR_TILES = 208
# tl.dot without tensor cores keeps the operands of each accumulator element too: about 6 registers, as compiled.
_REGISTERS_PER_FMA_ELEMENT = 6
_WARP_SIZE = 32


@dataclass(frozen=True)
class Space:
    """The tiles of one kernel.

    tensor_cores: those for fp16 and bf16. fma: those for fp32 in full precision, which has no tensor cores, and whose
    products fill the registers much sooner. shared_memory: estimates a block's in bytes. registers: estimates those of
    a thread that tiles take.
    """

    tensor_cores: tuple[TileConfig, ...]
    fma: tuple[TileConfig, ...]
    shared_memory: Callable[[TileConfig, Where], int]
    registers: Callable[[TileConfig, Where], int]

    def of(self, dtype: torch.dtype) -> tuple[TileConfig, ...]:
        """The tiles of a dtype."""
        return self.fma if dtype == torch.float32 else self.tensor_cores

    def fits(self, tile: TileConfig, where: Where) -> bool:
        """Whether a tile is expected to fit an architecture's shared memory and registers."""
        fits_memory = self.shared_memory(tile, where) <= shared_memory_limit(where.arch)
        return fits_memory and self.registers(tile, where) <= _REGISTERS_FOR_TILES

    def fitting(self, where: Where) -> tuple[TileConfig, ...]:
        """The tiles worth trying; none for the interpreter, where there is nothing to tune."""
        return tuple(tile for tile in self.of(where.dtype) if self.fits(tile, where)) if where.arch else ()


def check_pinned(tile: TileConfig, where: Where) -> None:
    """NotImplementedError for a tile of a forward pass that cannot run on the device, or would compile for minutes.

    A tile that merely spills registers is allowed: it is slow and right. The interpreter takes any.
    """
    if not where.arch:
        return
    needed, limit = FORWARD.shared_memory(tile, where), shared_memory_limit(where.arch)
    if needed > limit:
        raise NotImplementedError(f"config {tile} needs {needed} bytes of shared memory of {limit} for {where}")
    if where.dtype == torch.float32 and FORWARD.registers(tile, where) > _REGISTERS_FOR_TILES:
        raise NotImplementedError(f"config {tile} has too many products per thread without tensor cores for {where}")


def pair_fits(tiles: BackwardTiles, where: Where) -> bool:
    """Whether both kernels of the backward pass are expected to fit."""
    return BACKWARD_KV.fits(tiles.kv, where) and BACKWARD_Q.fits(tiles.q, where)


def fitting_pairs(where: Where) -> tuple[BackwardTiles, ...]:
    """What autotuning tries of the backward pass: each tile of the one kernel that fits, with each of the other."""
    pairs = itertools.product(BACKWARD_KV.fitting(where), BACKWARD_Q.fitting(where))
    return tuple(itertools.starmap(BackwardTiles, pairs))


def _forward_shared_memory(tile: TileConfig, where: Where) -> int:
    """An upper estimate: Q once, K and V once per stage (before sm_90 one buffer fewer), 1 KB for reductions."""
    buffers = max(2, 2 * tile.num_stages - (like(where.arch) < 90))
    return (tile.BLOCK_M + buffers * tile.BLOCK_N) * where.BLOCK_D * where.dtype.itemsize + 1024


def _forward_registers(tile: TileConfig, where: Where) -> int:
    """O and scores in fp32, K on its way to shared memory, Q before sm_90."""
    o, scores = tile.BLOCK_M * where.BLOCK_D, tile.BLOCK_M * tile.BLOCK_N
    threads = tile.num_warps * _WARP_SIZE
    if where.dtype == torch.float32:
        return _REGISTERS_PER_FMA_ELEMENT * (o + scores) // threads
    staged = tile.BLOCK_N * where.BLOCK_D // 2 + (o // 2 if like(where.arch) < 90 else 0)
    return (o + scores + staged) // threads


def _backward_shared_memory(own: int, other: int, gradients: int, stages: int, where: Where) -> int:
    """Of a kernel that sums `gradients` gradients of `own` rows over tiles of `other` rows.

    Two tensors of `own` rows once, two of `other` rows a stage (before sm_90 one fewer), the row statistics, and where
    wgmma does not take P and dS from registers (only sm_90 does) another tile, as compiled.
    """
    staged = max(1, stages - (like(where.arch) < 90))
    has_staging = like(where.arch) >= 100 or (gradients == 2 and like(where.arch) < 90)
    elements = 2 * (own + staged * other) * where.BLOCK_D + (own * where.BLOCK_D if has_staging else 0)
    return elements * where.dtype.itemsize + 8 * stages * other + 256


def _backward_registers(own: int, other: int, gradients: int, warps: int, where: Where) -> int:
    """The sums of the gradients, scores and dP, in fp32."""
    elements = gradients * own * where.BLOCK_D + 2 * own * other
    each = _REGISTERS_PER_FMA_ELEMENT if where.dtype == torch.float32 else 1
    return each * elements // (warps * _WARP_SIZE)


def _tiles(*texts: str) -> tuple[TileConfig, ...]:
    return tuple(TileConfig.parse(text) for text in texts)


_BACKWARD_FMA = _tiles("32x32x8x1", "32x32x4x1", "16x32x8x1", "16x16x8x1")

FORWARD = Space(
    tensor_cores=_tiles(
        *("128x128x8x4", "128x128x8x2", "128x64x4x3", "128x64x8x3", "128x64x8x2"),
        *("64x64x4x3", "64x64x4x2", "64x64x8x2", "64x64x8x1", "64x32x8x2", "32x32x4x2"),
    ),
    fma=_tiles("64x32x8x1", "32x32x8x2", "32x32x8x1", "32x32x4x1", "16x32x8x1", "16x32x4x1", "16x16x8x1"),
    shared_memory=_forward_shared_memory,
    registers=_forward_registers,
)
BACKWARD_KV = Space(
    tensor_cores=_tiles(
        *("64x128x8x2", "64x128x8x1", "128x128x8x2", "64x64x4x2", "64x64x8x1", "32x64x4x2"),
        *("32x64x8x1", "32x32x8x1", "16x64x8x2"),
    ),
    fma=_BACKWARD_FMA,
    shared_memory=lambda tile, where: _backward_shared_memory(tile.BLOCK_N, tile.BLOCK_M, 2, tile.num_stages, where),
    registers=lambda tile, where: _backward_registers(tile.BLOCK_N, tile.BLOCK_M, 2, tile.num_warps, where),
)
BACKWARD_Q = Space(
    tensor_cores=_tiles("128x128x8x2", "128x64x8x2", "64x64x4x2", "64x64x8x1", "64x32x8x2", "64x32x8x1"),
    fma=_BACKWARD_FMA,
    shared_memory=lambda tile, where: _backward_shared_memory(tile.BLOCK_M, tile.BLOCK_N, 1, tile.num_stages, where),
    registers=lambda tile, where: _backward_registers(tile.BLOCK_M, tile.BLOCK_N, 1, tile.num_warps, where),
)
