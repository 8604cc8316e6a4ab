"""Early exit, counted: the key tiles that the portable kernel leaves out, as it runs and in closed form."""

from __future__ import annotations

import torch
import triton

from .arguments import check_arguments
from .paths import PORTABLE, choose
from .portable import launch_of, usable_tile
from .tiles import TileConfig
from .tuning import AUTOTUNE


def flash_attn_forward_debug(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return O and the key tiles left out, int32 (B, Hq, query tiles), counted by the portable kernel as it runs."""
    problem = check_arguments(q, k, v, causal, seqlens_k, scale)
    if config == AUTOTUNE:
        raise ValueError(f'config must name a tile in debug mode, where the counts depend on it, got "{AUTOTUNE}"')
    path, text = choose(problem, PORTABLE.name if config is None else config)
    if path is not PORTABLE:
        raise ValueError(f"config must be a tile of the portable path in debug mode, got {config!r}")
    tile = usable_tile(problem, text and TileConfig.parse(text))
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    q_tiles = triton.cdiv(problem.Nq, tile.BLOCK_M)
    skipped = torch.empty(problem.B, problem.Hq, q_tiles, dtype=torch.int32, device=q.device)
    if o.shape[:3].numel():
        launch_of(problem, tile, count=True)(q, k, v, o, lse, seqlens_k, skipped)
    return o, skipped


def skipped_tiles(Nq: int, Nk: int, kv_len: int, alignment: str | None, tile: TileConfig) -> list[int]:
    """Closed form of the debug counts of one head: the key tiles that each query tile leaves out."""
    shift = kv_len - Nq if alignment == "lower_right" else 0
    counts = []
    for m0 in range(0, Nq, tile.BLOCK_M):
        visible = kv_len
        if alignment is not None:
            visible = max(0, min(kv_len, min(m0 + tile.BLOCK_M, Nq) + shift))
        counts.append(triton.cdiv(Nk, tile.BLOCK_N) - triton.cdiv(visible, tile.BLOCK_N))
    return counts
