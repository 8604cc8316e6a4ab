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


def gradients(q, k, v, dO, dLSE=None, causal=False, seqlens_k=None, scale=None, absolute=False) -> Tensors:
    """dQ, dK and dV in float64 on the CPU by formula; with `absolute` the sums of their terms' absolute values.

    The gradient of an empty row's LSE counts as 0. Hidden keys and values, and rows that see nothing, are never read.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    o, lse = attention(q, k, v, causal, seqlens_k, scale)
    keep = visible_keys(q.shape[0], q.shape[2], k.shape[2], causal, seqlens_k)
    group = q.shape[1] // max(k.shape[1], 1)
    sees, seen = keep.any(3, keepdim=True), keep.any(2, keepdim=True).transpose(-1, -2)
    q, dO = (torch.where(sees, x.detach().cpu().double(), 0.0) for x in (q, dO))
    k, v = (torch.where(seen, x.detach().cpu().double(), 0.0).repeat_interleave(group, 1) for x in (k, v))
    finite_lse = torch.where(sees, lse[..., None], 0.0)
    p = torch.where(keep, (q @ k.transpose(-1, -2) * scale - finite_lse).exp(), 0.0)
    dLSE = torch.zeros_like(finite_lse) if dLSE is None else dLSE.cpu().double()[..., None]
    dLSE = torch.where(sees, dLSE, 0.0)
    if absolute:
        o, q, k, v, dO, dLSE, scale = (p @ v.abs(), *(x.abs() for x in (q, k, v, dO, -dLSE)), abs(scale))
        dS = p * (dO @ v.transpose(-1, -2) + (dO * o).sum(-1, keepdim=True) + dLSE)
    else:
        dS = p * (dO @ v.transpose(-1, -2) - (dO * o).sum(-1, keepdim=True) + dLSE)
    of_heads = (dS.transpose(-1, -2) @ q * scale, p.transpose(-1, -2) @ dO)
    return dS @ k * scale, *(x.unflatten(1, (x.shape[1] // max(group, 1), group)).sum(2) for x in of_heads)


def assert_gradients_close(got, q, k, v, dO, dLSE=None, causal=False, seqlens_k=None, scale=None) -> None:
    """Each gradient within a few roundings of its terms, exactly 0 where nothing is added; None is not looked at."""
    asked = (q, k, v, dO, dLSE, causal, seqlens_k, scale)
    # P, dS, O and the result are rounded to the dtype once each; P also has the error of scores and of LSE, in fp32.
    of_scores = error_bounds(q, k, v, scale)[1] if q.numel() and k.numel() else 0.0
    relative = 4 * torch.finfo(q.dtype).eps / 2 + 4 * of_scores
    for grad, x, want, terms in zip(got, (q, k, v), gradients(*asked), gradients(*asked, absolute=True), strict=True):
        if grad is None:
            continue
        assert (grad.shape, grad.dtype, grad.is_contiguous()) == (x.shape, x.dtype, True)
        error = (grad.cpu().double() - want).abs()
        # Terms may be subnormal in fp16.
        tiny = torch.where(terms > 0, 2**-20 if q.dtype == torch.float16 else 2**-120, 0.0)
        assert not error.isnan().any()
        assert (error <= relative * terms + tiny).all(), (error - relative * terms).max()


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
