"""The tile that ours takes on a row: from its plan on a CUDA device, and without one as it would be on an H100."""

from __future__ import annotations

from io_analysis.traffic import Tile
from speed.rows import DTYPES, Row, make_inputs

THEORY_ARCH = 90
MULTIPROCESSORS = 132
"""An H100 SXM's."""
HOPPER = "hopper"
"""The path whose loads are TMA's, of whole tiles."""


def our_tile(row: Row, config: str | None, device: str) -> Tile:
    """The tile of ours, called with a `config`. The errors are those of `kernel.flash_attention`."""
    path, tile = _planned(row, config) if device == "cuda" else _as_on_an_h100(row, config)
    return Tile.parse(f"{tile}!" if path == HOPPER else tile)


def _planned(row: Row, config: str | None) -> tuple[str, str]:
    """The path and the tile of the kernel's own plan."""
    from kernel.call.arguments import Asked
    from kernel.choose import plan_for

    inputs = make_inputs(row, "cuda")
    plan = plan_for(Asked(inputs.q, inputs.k, inputs.v, row.causal, inputs.seqlens_k, config=config))
    return plan.path, plan.config


def _as_on_an_h100(row: Row, config: str | None) -> tuple[str, str]:
    import torch

    from kernel.call.arguments import Asked, check_arguments
    from kernel.choose import FORWARD
    from kernel.hopper import forward as hopper
    from kernel.tiles.config import Where, block_d
    from kernel.tiles.defaults import default_tile

    named, tile = FORWARD.parse(config)
    fits_hopper = row.dtype != "fp32" and row.N >= hopper.WORTH_IT and row.d > 32 and row.d % 8 == 0
    path = named.name if named else HOPPER if fits_hopper else "portable"
    if tile is None and path == HOPPER:
        q, k = (torch.empty(row.B, H, row.N, row.d, dtype=DTYPES[row.dtype], device="meta") for H in (row.Hq, row.Hk))
        tile = str(hopper.tiles_of(check_arguments(Asked(q, k, k, row.causal)), MULTIPROCESSORS)[0])
    return path, tile or str(default_tile(Where(block_d(row.d), DTYPES[row.dtype], THEORY_ARCH), row.causal))
