"""What the kernel accepts: every refusal is one sentence that names the argument, what came and what is legal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

MAX_HEAD_DIM = 256
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
ALIGNMENTS = ("upper_left", "lower_right")
_SEQLEN_DTYPES = (torch.int32, torch.int64)
_LARGEST_FP32 = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Problem:
    """A checked attention problem: the geometry, the alignment of the diagonal (None: not causal) and the scale."""

    B: int
    Hq: int
    Hk: int
    Nq: int
    Nk: int
    d: int
    alignment: str | None
    scale: float


def check_arguments(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
) -> Problem:
    """Check the arguments of a forward call and return its `Problem`; ValueError or TypeError in one sentence."""
    _check_tensors(q, k, v)
    B, Hq, Nq, d = q.shape
    Hk, Nk = k.shape[1], k.shape[2]
    _check_shapes(q, k, v)
    if seqlens_k is not None:
        _check_seqlens(seqlens_k, B, Nk, q.device)
    return Problem(B, Hq, Hk, Nq, Nk, d, _alignment(causal), _scale(scale, d))


def _check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if x.layout != torch.strided:
            raise ValueError(f"{name} must be a dense strided tensor, got the layout {x.layout}")
        if x.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions (B, H, N, d), got {x.dim()} of shape {tuple(x.shape)}")
        if x.dtype not in DTYPES.values():
            raise TypeError(f"{name} must be float16, bfloat16 or float32, got {_short(x.dtype)}")
        if x.dtype != q.dtype:
            raise TypeError(f"{name} must have q's dtype {_short(q.dtype)}, got {_short(x.dtype)}")
        if x.device != q.device:
            raise ValueError(f"{name} must be on q's device {q.device}, got {x.device}")
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} requires grad but the kernel has no backward: detach it or call under torch.no_grad()"
            )


def _check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    B, Hq, _, d = q.shape
    Hk = k.shape[1]
    if v.shape != k.shape:
        raise ValueError(f"v must have k's shape {tuple(k.shape)}, got {tuple(v.shape)}")
    if k.shape[0] != B:
        raise ValueError(f"k must have q's batch size {B}, got {k.shape[0]}")
    if k.shape[3] != d:
        raise ValueError(f"k must have q's head dim {d}, got {k.shape[3]}")
    if not 1 <= d <= MAX_HEAD_DIM:
        raise ValueError(f"q must have a head dim from 1 to {MAX_HEAD_DIM}, got {d}")
    if (Hq % Hk if Hk else Hq) != 0:
        raise ValueError(f"q must have a multiple of k's {Hk} heads, got {Hq}")


def _check_seqlens(seqlens_k: torch.Tensor, B: int, Nk: int, device: torch.device) -> None:
    if not isinstance(seqlens_k, torch.Tensor):
        raise TypeError(f"seqlens_k must be a torch.Tensor or None, got {type(seqlens_k).__name__}")
    if seqlens_k.dtype not in _SEQLEN_DTYPES:
        raise TypeError(f"seqlens_k must be int32 or int64, got {_short(seqlens_k.dtype)}")
    if tuple(seqlens_k.shape) != (B,):
        raise ValueError(f"seqlens_k must have shape ({B},), one length per batch, got {tuple(seqlens_k.shape)}")
    if seqlens_k.device != device:
        raise ValueError(f"seqlens_k must be on q's device {device}, got {seqlens_k.device}")
    # Reading a CUDA tensor here would stall the stream, so there the kernel clamps each length to [0, Nk] instead.
    if device.type == "cpu" and B:
        low, high = (int(x) for x in torch.aminmax(seqlens_k))
        if low < 0 or high > Nk:
            raise ValueError(f"seqlens_k must lie in 0..{Nk} (k's length), got values from {low} to {high}")


def _alignment(causal: bool | str) -> str | None:
    if isinstance(causal, bool):
        return "upper_left" if causal else None
    if not isinstance(causal, str):
        raise TypeError(f'causal must be a bool, "upper_left" or "lower_right", got {type(causal).__name__}')
    if causal not in ALIGNMENTS:
        raise ValueError(f'causal must be False, True, "upper_left" or "lower_right", got {causal!r}')
    return causal


def _scale(scale: float | None, d: int) -> float:
    if scale is None:
        return d**-0.5
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"scale must be a float or None, got {type(scale).__name__}")
    # The kernel folds log2(e) into the scale, in fp32; not (x <= y) also catches NaN.
    if not abs(scale) * math.log2(math.e) <= _LARGEST_FP32:
        raise ValueError(f"scale must be finite in float32, got {scale}")
    return float(scale)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
