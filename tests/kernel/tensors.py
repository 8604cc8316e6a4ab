"""Tensors for calls of the kernel: random ones, their gradients, and the ways that they may lie in memory."""

from __future__ import annotations

import torch

from kernel import flash_attention


def draw(B, Hq, Hk, Nq, Nk, d, dtype=torch.float32, device="cpu", seed=0):
    """Normal q (B, Hq, Nq, d), k and v (B, Hk, Nk, d)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, d)]
    return tuple(torch.randn(s, generator=generator).to(dtype).to(device) for s in shapes)


def cotangents(q, seed=7):
    """Normal dO like q and dLSE."""
    generator = torch.Generator().manual_seed(seed)
    dO = torch.randn(q.shape, generator=generator).to(q.dtype).to(q.device)
    return dO, torch.randn(q.shape[:3], generator=generator).to(q.device)


def differentiate(q, k, v, dO, dLSE=None, *arguments, needs=(True, True, True), **options):
    """The gradients that autograd hands back, None for the ones not needed."""
    leaves = [x.detach().requires_grad_(need) for x, need in zip((q, k, v), needs, strict=True)]
    o, lse = flash_attention(*leaves, *arguments, **options, return_lse=True)
    outputs, grads = zip(*((y, dy) for y, dy in ((o, dO), (lse, dLSE)) if dy is not None), strict=True)
    wanted = [x for x in leaves if x.requires_grad]
    got = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))
    return tuple(next(got) if need else None for need in needs)


def same(some, others):
    """Whether tensors are equal bit for bit; None is equal to None alone."""
    return all(x is y is None or torch.equal(x, y) for x, y in zip(some, others, strict=True))


def lengths(device, *values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=device)


def transposed(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def columns_first(x):
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def padded_rows(x):
    room = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
    room[..., : x.shape[-1]] = x
    return room[..., : x.shape[-1]]


def every_other_row(x):
    room = x.new_full((*x.shape[:2], 2 * x.shape[2], x.shape[3]), torch.nan)
    room[:, :, ::2] = x
    return room[:, :, ::2]


def off_by_one(x):
    room = x.new_full((x.numel() + 1,), torch.nan)
    room[1:] = x.flatten()
    return room[1:].view(x.shape)


LAYOUTS = (transposed, columns_first, padded_rows, every_other_row, off_by_one)
