"""The tile that ships for an architecture, a dtype, a head dim and a mask, and how we know that it is a good one."""

from __future__ import annotations

from typing import NamedTuple

import torch

from .config import INTERPRETER_TILE, BackwardTiles, TileConfig, Where, like

MEASURED = "the fastest of the tiles that fit, or within 1 % of it, at N 4096 on an H100, causal and not"
COMPILED = "compiles without spilling a register; not timed on such a device"
SMALLEST = "spills, and no tile of this dtype and head dim does not; not timed on such a device"


class Row(NamedTuple):
    """One default.

    arch: the compute capability, 90 for sm_90; also for later ones that have no rows. dtype: "half" is fp16 and bf16,
    on tensor cores; "fp32" is full precision, without them. d: head dims up to this, and above the row before.
    causal: None holds for both.
    """

    arch: int
    dtype: str
    d: int
    causal: bool | None
    tile: str
    evidence: str


# fmt: off
TABLE = (
    Row(80, "half",  64, None, "64x64x4x3",  COMPILED),
    Row(80, "half", 128, None, "64x64x4x3",  COMPILED),
    Row(80, "half", 256, None, "64x64x8x1",  COMPILED),
    Row(80, "fp32",  64, None, "32x32x4x1",  COMPILED),
    Row(80, "fp32", 128, None, "32x32x8x1",  COMPILED),
    Row(80, "fp32", 256, None, "16x32x8x1",  COMPILED),
    Row(89, "half",  64, None, "64x64x4x3",  COMPILED),
    Row(89, "half", 128, None, "64x64x4x3",  COMPILED),
    Row(89, "half", 256, None, "64x64x8x1",  COMPILED),
    Row(89, "fp32",  64, None, "32x32x4x1",  COMPILED),
    Row(89, "fp32", 128, None, "32x32x8x1",  COMPILED),
    # One key tile twice as long spills 32 bytes with triton 3.7.1.
    Row(89, "fp32", 256, None, "16x16x8x1",  COMPILED),
    Row(90, "half",  64, None, "128x64x8x3", MEASURED),
    Row(90, "half", 128, None, "128x64x8x3", MEASURED),
    Row(90, "half", 256, None, "128x64x8x2", MEASURED),
    Row(90, "fp32",  64, None, "32x32x4x1",  MEASURED),
    Row(90, "fp32", 128, None, "32x32x8x1",  MEASURED),
    Row(90, "fp32", 256, None, "16x32x8x1",  MEASURED),
)

# The backward's: the tile of dK and dV, and that of dQ. sm_89's shared memory holds those of sm_80.
BACKWARD_TABLE = (
    Row(80, "half",  64, None, "32x64x4x2+128x64x8x2",   COMPILED),
    Row(80, "half", 128, None, "64x64x8x1+64x64x8x1",    COMPILED),
    Row(80, "half", 256, None, "32x32x8x1+64x32x8x1",    COMPILED),
    Row(80, "fp32",  64, None, "32x32x8x1+32x32x8x1",    COMPILED),
    Row(80, "fp32", 128, None, "16x16x8x1+16x16x8x1",    COMPILED),
    Row(80, "fp32", 256, None, "16x16x8x1+16x16x8x1",    SMALLEST),
    Row(90, "half",  64, None, "64x64x4x3+128x64x8x3",   MEASURED),
    Row(90, "half", 128, None, "64x128x8x2+128x64x8x2",  COMPILED),
    Row(90, "half", 256, None, "16x64x8x2+64x32x8x2",    COMPILED),
    Row(90, "fp32",  64, None, "32x32x8x1+32x32x8x1",    COMPILED),
    Row(90, "fp32", 128, None, "16x16x8x1+16x32x8x1",    COMPILED),
    Row(90, "fp32", 256, None, "16x16x8x1+16x16x8x1",    SMALLEST),
)
# fmt: on


def default_tile(where: Where, causal: bool) -> TileConfig:
    """The shipped tile of the forward pass; a device older than every row takes the oldest rows."""
    return TileConfig.parse(row_of(TABLE, where, causal).tile) if where.arch else INTERPRETER_TILE


def default_pair(where: Where, causal: bool) -> BackwardTiles:
    """The shipped tiles of the backward pass."""
    pair = row_of(BACKWARD_TABLE, where, causal).tile if where.arch else str(INTERPRETER_TILE)
    return BackwardTiles.parse(pair)


def row_of(table: tuple[Row, ...], where: Where, causal: bool) -> Row:
    """The row of a table that holds: of the newest architecture, then of the smallest head dim."""
    newest = max(row.arch for row in table if row.arch <= max(like(where.arch), min(table).arch))
    kind = "fp32" if where.dtype == torch.float32 else "half"
    rows = [row for row in table if row.arch == newest and row.dtype == kind and row.causal in (None, causal)]
    return min((row for row in rows if row.d >= where.BLOCK_D), key=lambda row: row.d)
