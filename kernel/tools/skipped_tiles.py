"""Early exit, counted: the tiles that the portable kernels leave out, as they run and in closed form."""

from __future__ import annotations

import torch
import triton

from ..backward_paths import PORTABLE_BACKWARD, backward_half, choose_backward
from ..call.arguments import check_arguments
from ..call.backward_arguments import as_backward_values, check_backward
from ..choose import PORTABLE, choose, forward_half
from ..portable import backward as portable_backward
from ..portable.forward import launch_of, usable_tile
from ..tiles.backward import BackwardTiles
from ..tiles.config import TileConfig
from ..tiles.tuning import AUTOTUNE

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


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
    _check_names_a_tile(forward_half(config))
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


def flash_attn_backward_debug(
    dO: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    O: torch.Tensor,
    LSE: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: str | None = None,
) -> tuple[Gradients, torch.Tensor, torch.Tensor]:
    """Return dQ, dK and dV, and the tiles left out, int32, counted by the portable kernels as they run.

    The query tiles that the kernel of dK and dV leaves out are (B, Hk, key tiles), of all query heads of a group
    together; the key tiles that the kernel of dQ leaves out are (B, Hq, query tiles). O and LSE are those of the
    forward pass; config is as for `flash_attention`, "/64x64x4x1+64x64x4x1" for tiles of the backward.
    """
    problem = check_backward(
        as_backward_values(dO, None, q, k, v, O, LSE, causal, seqlens_k, scale, config, (True, True, True))
    )
    _check_names_a_tile(config, backward_half(config))
    path, text = choose_backward(problem, f"/{PORTABLE_BACKWARD.name}" if config is None else config)
    if path is not PORTABLE_BACKWARD:
        raise ValueError(f"config must be tiles of the portable path in debug mode, got {config!r}")
    tiles = portable_backward.usable_tiles(problem, text and BackwardTiles.parse(text))
    grads = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    skipped = [
        torch.empty(*x.shape[:2], triton.cdiv(x.shape[2], rows), dtype=torch.int32, device=q.device)
        for x, rows in ((k, tiles.kv.BLOCK_N), (q, tiles.q.BLOCK_M))
    ]
    portable_backward.launch_of(problem, tiles, count=True)(q, k, v, O, LSE, dO, None, seqlens_k, *grads, *skipped)
    return grads, *skipped


def _check_names_a_tile(*asked: object) -> None:
    if AUTOTUNE in asked:
        raise ValueError(f'config must name a tile in debug mode, where the counts depend on it, got "{AUTOTUNE}"')


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


def skipped_query_tiles(Nq: int, Nk: int, kv_len: int, alignment: str | None, tile: TileConfig) -> list[int]:
    """Closed form of the backward's counts of one query head: the query tiles that each key tile leaves out.

    Those are the ones before the first row that sees a key of the tile, or all of them where no row does.
    """
    first_limit = 1 + (kv_len - Nq if alignment == "lower_right" else 0)
    seen = kv_len if alignment is None else max(0, min(kv_len, Nq - 1 + first_limit))
    counts = []
    for n0 in range(0, Nk, tile.BLOCK_N):
        first_row = 0 if alignment is None else max(0, n0 + 1 - first_limit)
        counts.append(triton.cdiv(Nq, tile.BLOCK_M) if n0 >= seen else first_row // tile.BLOCK_M)
    return counts
