"""Small attention functions: one right, the others each wrong in one way of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def right(q, k, v, causal=False, scale=None, seqlens_k=None, return_lse=False):
    """Attention by the definition, in float64, rounded once at the end."""
    O, LSE = definition(q, k, v, causal, scale, seqlens_k)
    return (O.to(q.dtype), LSE.float()) if return_lse else O.to(q.dtype)


def definition(q, k, v, causal=False, scale=None, seqlens_k=None) -> tuple[Tensor, Tensor]:
    """O and LSE in float64; causal is upper-left."""
    group = q.shape[1] // k.shape[1]
    Nq, Nk = q.shape[2], k.shape[2]
    hidden = torch.zeros(q.shape[0], 1, Nq, Nk, dtype=torch.bool, device=q.device)
    if causal:
        hidden |= torch.ones(Nq, Nk, dtype=torch.bool, device=q.device).triu(1)
    if seqlens_k is not None:
        past_end = torch.arange(Nk, device=q.device) >= seqlens_k[:, None]
        hidden |= past_end[:, None, None, :]
        k, v = (x.masked_fill(past_end[:, None, :, None], 0) for x in (k, v))
    k, v = (x.double().repeat_interleave(group, 1) for x in (k, v))
    S = (q.double() @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    S = S.masked_fill(hidden, -torch.inf)
    LSE = S.logsumexp(-1)
    P = (S - LSE.masked_fill(LSE.isinf(), 0)[..., None]).exp()
    return P @ v, LSE


def plain(q, k, v):
    """Right, with no feature at all."""
    return right(q, k, v)


def ignores_causal(q, k, v, causal=False, scale=None):
    """The causal mask is forgotten."""
    return right(q, k, v, False, scale)


def nan_on_empty_rows(q, k, v, causal=False, seqlens_k=None):
    """A row that sees no key comes out as NaN."""
    O, LSE = definition(q, k, v, causal, None, seqlens_k)
    return O.masked_fill(LSE.isinf()[..., None], torch.nan).to(q.dtype)


def lse_in_base_2(q, k, v, return_lse=False):
    """LSE in units of log 2."""
    O, LSE = definition(q, k, v)
    return (O.to(q.dtype), (LSE / 0.6931471805599453).float()) if return_lse else O.to(q.dtype)


def returns_fp32(q, k, v):
    """O in fp32 whatever q is."""
    return right(q, k, v).float()


def returns_extra_row(q, k, v):
    """O one row too long."""
    O = right(q, k, v)
    return torch.cat([O, O[:, :, :1]], dim=2)


def scales_in_place(q, k, v):
    """q is scaled where it lies."""
    q *= 2.0
    return right(q, k, v, scale=0.5 * q.shape[-1] ** -0.5)


def writes_past_q(q, k, v):
    """One element past the end of q is written."""
    after = q.storage_offset() + sum((n - 1) * s for n, s in zip(q.shape, q.stride(), strict=True)) + 1
    q.as_strided((1,), (1,), after).zero_()
    return right(q, k, v)


def leaves_last_row(q, k, v):
    """The last of several rows of an output from torch.empty is never written."""
    O = torch.empty_like(q)
    O[:, :, : max(1, q.shape[2] - 1)] = right(q, k, v)[:, :, : max(1, q.shape[2] - 1)]
    return O


def raises_on_long_keys(q, k, v):
    """More than 64 keys raise."""
    if k.shape[2] > 64:
        raise RuntimeError("too many keys")
    return right(q, k, v)


def refuses_bf16(q, k, v):
    """bf16 is refused."""
    if q.dtype is torch.bfloat16:
        raise NotImplementedError("bf16 is not supported")
    return right(q, k, v)


class _Passed(torch.autograd.Function):
    """A copy, whose gradient `change` makes of the one that comes back."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient), None


def passed(x, change):
    """x, whose gradient is changed on its way back."""
    return _Passed.apply(x, change)


def doubles_dk(q, k, v, causal=False):
    """dK is twice what it should be."""
    return right(q, passed(k, lambda dK: 2 * dK), v, causal)


def drops_dq(q, k, v):
    """q is taken out of the graph."""
    return right(q.detach(), k, v)


def drops_the_graph(q, k, v):
    """O comes back without a graph."""
    return right(q, k, v).detach()


def ignores_dlse(q, k, v, return_lse=False):
    """LSE stands in the graph, and its gradient is lost."""
    if not return_lse:
        return right(q, k, v)
    O, LSE = right(q, k, v, return_lse=True)
    return O, passed(LSE, torch.zeros_like)


def leaves_last_row_of_dv(q, k, v):
    """The last row of a gradient from torch.empty is never written."""

    def all_but_one(dV):
        made = torch.empty_like(dV)
        made[:, :, :-1] = dV[:, :, :-1]
        return made

    return right(q, k, passed(v, all_but_one))


def writes_past_dv(q, k, v):
    """One element past the end of a gradient is written."""

    def past_the_end(dV):
        made = torch.empty(dV.shape, dtype=dV.dtype, device=dV.device)
        made.as_strided((1,), (1,), made.storage_offset() + made.numel()).zero_()
        return made.copy_(dV)

    return right(q, k, passed(v, past_the_end))


def reads_past_dO(q, k, v):
    """What stands behind dO is added with weight 0."""

    def and_beyond(dO):
        beyond = dO.storage_offset() + sum((n - 1) * s for n, s in zip(dO.shape, dO.stride(), strict=True)) + 1
        return dO + 0 * dO.as_strided((1,), (1,), beyond)

    return passed(right(q, k, v), and_beyond)


def writes_to_dO(q, k, v):
    """dO is scaled where it lies."""
    return passed(right(q, k, v), lambda dO: dO.mul_(2.0) / 2)


def raises_in_backward(q, k, v):
    """The backward raises."""

    def fail(gradient):
        raise RuntimeError("no backward today")

    return passed(right(q, k, v), fail)


def refuses_backward(q, k, v):
    """The backward is refused."""

    def refuse(gradient):
        raise NotImplementedError("no backward for this")

    return passed(right(q, k, v), refuse)
