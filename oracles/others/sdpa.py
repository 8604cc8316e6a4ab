"""torch's scaled_dot_product_attention, one oracle per backend."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from oracles.features import broken_premises, links, visible
from oracles.others.autograd import answer_with_gradients
from oracles.registry import Answer, oracle
from strategies import Problem

NO_KERNEL = ("No available kernel", "No viable backend", "No valid execution plans")
"""torch's messages for a problem that a backend does not support."""


def _maps_scores(problem: Problem) -> str | None:
    return "takes only masks" if links(problem) else None


def _needs_cuda(problem: Problem) -> str | None:
    return _maps_scores(problem) if problem.q.device.type == "cuda" else "runs on CUDA only"


@oracle(why_not=_maps_scores)
def sdpa_math(problem: Problem) -> Answer:
    """torch SDPA, math backend."""
    return _sdpa(problem, SDPBackend.MATH)


@oracle(why_not=_maps_scores)
def sdpa_flash(problem: Problem) -> Answer:
    """torch SDPA, flash backend: a tiled kernel of its own on the CPU, FlashAttention-2 on CUDA.

    The CPU's backward pass sums dV over blocks in the inputs' dtype, so in fp16 and bf16 its dV exceeds the budget and
    is left out.
    """
    answer = _sdpa(problem, SDPBackend.FLASH_ATTENTION)
    is_lazy = problem.q.device.type == "cpu" and problem.q.dtype != torch.float32
    return answer.without("dV") if is_lazy else answer


@oracle(why_not=_needs_cuda)
def sdpa_efficient(problem: Problem) -> Answer:
    """torch SDPA, memory-efficient backend.

    Its dK in fp16 exceeds the budget by far, and is left out.
    """
    answer = _sdpa(problem, SDPBackend.EFFICIENT_ATTENTION)
    return answer.without("dK") if problem.q.dtype == torch.float16 else answer


@oracle(why_not=_needs_cuda)
def sdpa_cudnn(problem: Problem) -> Answer:
    """torch SDPA, cuDNN backend."""
    return _sdpa(problem, SDPBackend.CUDNN_ATTENTION)


@dataclass(frozen=True)
class _Piece:
    """Queries of one batch entry over the keys that SDPA may read for them; shift is that of a causal mask."""

    rows: slice
    keys: slice
    shift: int | None = None

    @property
    def is_empty(self) -> bool:
        return bool(self.rows.stop <= self.rows.start or self.keys.stop <= self.keys.start)

    @property
    def is_square(self) -> bool:
        rows, keys = self.rows.stop - self.rows.start, self.keys.stop - self.keys.start
        return bool(self.shift == 0 and rows == keys)


def _pieces(problem: Problem, length: int) -> Iterator[_Piece]:
    """Cut a batch entry so that no piece has an empty row, and causal pieces are square if possible."""
    Nq = problem.q.shape[2]
    if problem.features.causal == "lower_right":
        first = max(0, Nq - length)
        yield _Piece(slice(first, Nq), slice(0, length), shift=length - (Nq - first))
    elif problem.features.causal:
        square = min(Nq, length)
        yield _Piece(slice(0, square), slice(0, square), shift=0)
        yield _Piece(slice(square, Nq), slice(0, length))
    else:
        yield _Piece(slice(0, Nq), slice(0, length))


def _sdpa(problem: Problem, backend: SDPBackend) -> Answer:
    """Answer with gradients by autograd. Raises NotImplementedError if the backend has no kernel for a piece."""
    with sdpa_kernel(backend), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return answer_with_gradients(problem, _forward)


def _forward(problem: Problem) -> Answer:
    """Compute O piece by piece, so that the backend handles neither padding nor empty rows."""
    q, k, v = (t.clone(memory_format=torch.contiguous_format) for t in (problem.q, problem.k, problem.v))
    q, scale = _with_positive_scale(q, problem.scale)
    k, v = (tensor.repeat_interleave(problem.group, dim=1) for tensor in (k, v))
    if "prefix" in broken_premises(problem.features):
        return Answer(_masked(problem, q, k, v, scale))
    O = q.new_zeros(*q.shape[:3], v.shape[3])
    lengths = [k.shape[2]] * k.shape[0] if problem.seqlens_k is None else problem.seqlens_k.tolist()
    for b, length in enumerate(lengths):
        for piece in _pieces(problem, length):
            if not piece.is_empty:
                at = (slice(b, b + 1), slice(None))
                rows, keys = (*at, piece.rows), (*at, piece.keys)
                O[rows] = _piece(q[rows], k[keys], v[keys], piece, scale)
    return Answer(O)


def _masked(problem: Problem, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Compute O with the mask as a tensor; a row that sees no key is computed with all keys, then set to 0."""
    seen = visible(problem)
    assert seen is not None
    is_read, has_keys = seen.any(dim=-2).unsqueeze(-1), seen.any(dim=-1, keepdim=True)
    k, v = (torch.where(is_read, tensor, 0.0) for tensor in (k, v))
    mask = (seen | ~has_keys).expand(q.shape[0], -1, q.shape[2], -1)
    return torch.where(has_keys, _attend(q, k, v, mask, False, scale), 0.0)


def _with_positive_scale(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Move the sign of the scale, or a scale of 0, into q: exact.

    torch 2.13's flash kernel on the CPU scales after it masks, so -inf becomes inf, or NaN at scale 0.
    """
    if scale > 0:
        return q, scale
    return (-q, -scale) if scale < 0 else (torch.zeros_like(q), 1.0)


def _piece(q: Tensor, k: Tensor, v: Tensor, piece: _Piece, scale: float) -> Tensor:
    mask = None
    if piece.shift is not None and not piece.is_square:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(piece.shift)
    return _attend(q, k, v, mask, piece.is_square, scale)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    try:
        return scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
    except RuntimeError as error:
        if any(text in str(error) for text in NO_KERNEL):
            raise NotImplementedError("This backend has no kernel for the problem.") from error
        raise
