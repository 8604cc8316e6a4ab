"""Attention in one Triton kernel, a program for each query row and head, which the other modules launch."""

import triton
import triton.language as tl


@triton.jit
def one_row(
    q, k, v, o, scale, Hq, Hk, Nq, Nk, d,
    q_b, q_h, q_n, q_d, k_b, k_h, k_n, k_d, v_b, v_h, v_n, v_d,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, FORGETS_TAIL: tl.constexpr, LEAVES_LANES: tl.constexpr,
):  # fmt: skip
    row, b, h = tl.program_id(0), tl.program_id(1) // Hq, tl.program_id(1) % Hq
    h_k = h // (Hq // Hk)
    offs_d = tl.arange(0, BLOCK_D)
    in_d = offs_d < d
    query = tl.load(q + b * q_b + h * q_h + row * q_n + offs_d * q_d, mask=in_d, other=0.0).to(tl.float32)
    largest, total = tl.full((1,), -1e30, tl.float32), tl.zeros((1,), tl.float32)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, Nk, BLOCK_N):
        offs_n = start + tl.arange(0, BLOCK_N)
        in_n = offs_n < Nk
        inside = in_n[:, None] & in_d[None, :]
        k_tile = k + b * k_b + h_k * k_h + offs_n[:, None] * k_n + offs_d[None, :] * k_d
        v_tile = v + b * v_b + h_k * v_h + offs_n[:, None] * v_n + offs_d[None, :] * v_d
        keys = tl.load(k_tile, mask=inside, other=0.0).to(tl.float32)
        if LEAVES_LANES:
            values = tl.load(v_tile, mask=inside).to(tl.float32)
        else:
            values = tl.load(v_tile, mask=inside, other=0.0).to(tl.float32)
        scores = tl.sum(query[None, :] * keys, 1) * scale
        if not FORGETS_TAIL:
            scores = tl.where(in_n, scores, -1e30)
        maximum = tl.maximum(largest, tl.max(scores, 0))
        weights = tl.exp(scores - maximum)
        shrunk = tl.exp(largest - maximum)
        total = total * shrunk + tl.sum(weights, 0)
        acc = acc * shrunk + tl.sum(weights[:, None] * values, 0)
        largest = maximum
    out = tl.where(total > 0, acc / tl.where(total > 0, total, 1.0), 0.0)
    tl.store(o + ((b * Hq + h) * Nq + row) * d + offs_d, out.to(o.dtype.element_ty), mask=in_d)


def operands(q, k, v, o, scale=None):
    """The kernel's arguments up to its constants."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    sizes = (q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3])
    return (q, k, v, o, scale, *sizes, *q.stride(), *k.stride(), *v.stride())


def grid(q):
    """A program for each query row and head."""
    return (q.shape[2], q.shape[0] * q.shape[1])
