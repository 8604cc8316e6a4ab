"""Attention in float64, by the definition, and how far from it a kernel may be."""

from __future__ import annotations

import torch

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def draw(B, Hq, Hk, Nq, Nk, d, dtype=torch.float32, device="cpu", seed=0) -> Tensors:
    """Normal q (B, Hq, Nq, d), k and v (B, Hk, Nk, d)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, d)]
    return tuple(torch.randn(s, generator=generator).to(dtype).to(device) for s in shapes)


def visible_keys(B, Nq, Nk, causal=False, seqlens_k=None) -> torch.Tensor:
    """Boolean (B, 1, Nq, Nk)."""
    lengths = torch.full((B,), Nk) if seqlens_k is None else seqlens_k.cpu().long()
    lengths = lengths[:, None, None, None]
    i, j = torch.arange(Nq)[:, None], torch.arange(Nk)
    keep = (j < lengths).expand(B, 1, Nq, Nk)
    if causal:
        keep = keep & (j <= i + (lengths - Nq if causal == "lower_right" else 0))
    return keep


def attention(q, k, v, causal=False, seqlens_k=None, scale=None) -> tuple[torch.Tensor, torch.Tensor]:
    """O and LSE in float64 on the CPU; an empty row is 0 and -inf. Masked keys and values are never multiplied."""
    q, k, v = (x.detach().cpu().double() for x in (q, k, v))
    B, Hq, Nq, d = q.shape
    Hk, Nk = k.shape[1:3]
    keep = visible_keys(B, Nq, Nk, causal, seqlens_k)
    seen = keep.any(2, keepdim=True).transpose(-1, -2)
    k, v = (torch.where(seen, x, 0.0).repeat_interleave(Hq // max(Hk, 1), 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (d**-0.5 if scale is None else scale)
    scores = scores.masked_fill(~keep, -torch.inf)
    lse = scores.logsumexp(-1)
    p = torch.where(keep, (scores - lse[..., None]).exp(), 0.0)
    return p @ v, lse


def error_bounds(q, k, v, scale=None) -> tuple[float, float]:
    """How far O and LSE may be from the truth: 2 roundings of the dtype of max |v|, and fp32's of the scores.

    P and O are rounded once each to q's dtype (u); the scores carry fp32 errors, of 2^-20 of their largest products.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    largest_v, largest_q, largest_k = (x.double().nan_to_num(0, 0, 0).abs().max().item() for x in (v, q, k))
    score_error = 2**-20 * (1 + abs(scale) * largest_q * largest_k * q.shape[-1])
    u = torch.finfo(q.dtype).eps / 2
    tiny = 2**-24
    return (2 * u + 2 * score_error) * largest_v + tiny, score_error


def assert_close(o, lse, q, k, v, causal=False, seqlens_k=None, scale=None) -> None:
    """O and LSE within `error_bounds`, empty rows exact."""
    want_o, want_lse = attention(q, k, v, causal, seqlens_k, scale)
    assert o.dtype == q.dtype
    assert o.shape == q.shape
    assert lse.dtype == torch.float32
    assert lse.shape == q.shape[:3]
    empty = want_lse == -torch.inf
    o, lse = o.cpu().double(), lse.cpu().double()
    assert (o[empty] == 0).all()
    assert (lse[empty] == -torch.inf).all()
    if empty.all():
        return
    of_o, of_lse = error_bounds(q, k, v, scale)
    torch.testing.assert_close(o, want_o, rtol=0, atol=of_o)
    torch.testing.assert_close(lse[~empty], want_lse[~empty], rtol=2**-22, atol=of_lse)
