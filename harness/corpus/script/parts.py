"""The functions that a script is made of. Their source is copied into it, so they use torch and one another alone."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import torch
from torch import Tensor


def from_bytes(text: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor whose bytes were packed into a text."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(text))), dtype=dtype).reshape(shape)


def laid_out(
    values: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, size: int, device: str
) -> Tensor:
    """Return a tensor with these values in a memory of `size` elements, which holds NaN wherever they are not."""
    own = values[tuple(slice(None) if stride else slice(1) for stride in strides)]
    memory = torch.full((size,), torch.nan, dtype=values.dtype)
    if own.numel():
        memory.as_strided(own.shape, strides, offset).copy_(own)
    return memory.to(device).as_strided(shape, strides, offset)


def scores(
    q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None, seqlens_k: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return S, -inf where hidden, and q, k and v, in float64: a head of k and v for each of q, 0 past the lengths."""
    q, k, v = q.double(), k.double(), v.double()
    (B, Hq, Nq, d), (Hk, Nk) = q.shape, k.shape[1:3]
    keys = torch.arange(Nk, device=q.device)
    lengths = torch.full((B,), Nk, device=q.device) if seqlens_k is None else seqlens_k
    lengths = lengths.reshape(B, 1, 1, 1)
    hidden = keys >= lengths
    k, v = (x.masked_fill(hidden.mT, 0.0).repeat_interleave(Hq // Hk, 1) for x in (k, v))
    if causal:
        last = torch.arange(Nq, device=q.device)[:, None] + (lengths - Nq if causal == "lower_right" else 0)
        hidden = hidden | (keys > last)
    S = (q @ k.mT * (d**-0.5 if scale is None else scale)).masked_fill(hidden, -torch.inf)
    return S, q, k, v


def reference(
    q: Tensor, k: Tensor, v: Tensor, causal: Any = False, scale: float | None = None, seqlens_k: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return O and LSE by the definition, in float64; a row that sees no key gives O = 0 and LSE = -inf."""
    S, _, _, v = scores(q, k, v, causal, scale, seqlens_k)
    return S.softmax(-1).nan_to_num(0.0) @ v, S.logsumexp(-1)


def reference_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dO: Tensor,
    dLSE: Tensor | None = None,
    causal: Any = False,
    scale: float | None = None,
    seqlens_k: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return dQ, dK and dV by the definition, in float64: dS = P (dP - rowsum(P dP) + dLSE), times the scale."""
    shape = (*k.shape[:2], q.shape[1] // k.shape[1], *k.shape[2:])
    S, q, k, v = scores(q, k, v, causal, scale, seqlens_k)
    P, dO = S.softmax(-1).nan_to_num(0.0), dO.double()
    dP = dO @ v.mT
    dS = dP - (P * dP).sum(-1, keepdim=True)
    dS = P * (dS if dLSE is None else dS + dLSE.double().unsqueeze(-1))
    dS = dS * (q.shape[-1] ** -0.5 if scale is None else scale)
    dK, dV = ((x.mT @ y).reshape(shape).sum(2) for x, y in ((dS, q), (P, dO)))
    return {"dQ": dS @ k, "dK": dK, "dV": dV}


def gradients_of(outputs: Any, given: Any, inputs: Any) -> tuple[Any, ...]:
    """Return the gradients in the inputs, given those of the outputs, as far as these have a grad_fn."""
    pairs = [(output, gradient) for output, gradient in zip(outputs, given, strict=False) if output.requires_grad]
    assert pairs, "What came back has no grad_fn."
    found, gradients = zip(*pairs, strict=True)
    return tuple(torch.autograd.grad(found, inputs, gradients, allow_unused=True))


def outputs(returned: Any, wants_lse: bool) -> tuple[Any, ...]:
    """Return what came back as (O,) or (O, LSE)."""
    found = returned if isinstance(returned, tuple) else (returned,)
    assert len(found) == 2 or (len(found) == 1 and not wants_lse), f"{len(found)} values came back."
    return found


def require_near(name: str, got: Any, wanted: Tensor, allowed: Any, dtype: torch.dtype) -> None:
    """Raise AssertionError, with the worst element, unless each is as near as is allowed to what is wanted."""
    assert isinstance(got, Tensor), f"{name} is {type(got).__name__}, not a tensor."
    assert got.shape == wanted.shape, f"{name} has the shape {tuple(got.shape)}, not {tuple(wanted.shape)}."
    assert got.dtype is dtype, f"{name} has the dtype {got.dtype}, not {dtype}."
    allowed = torch.as_tensor(allowed, dtype=torch.float64, device=got.device).expand(wanted.shape)
    error = (got.double() - wanted).abs()
    wrong = ~((error <= allowed) | (got == wanted))  # NaN is neither
    if wrong.any():
        ratio = torch.where(wrong, (error / allowed).nan_to_num(torch.inf), 0.0)
        at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
        told = f"{name}{list(at)}: got {got[at].item():.9g}, wanted {wanted[at].item():.9g}"
        raise AssertionError(f"{told}, off by {error[at].item():.3g} where {allowed[at].item():.3g} is allowed.")


def memory_of(tensor: Tensor) -> Tensor:
    """Return a copy of all bytes of the memory that a tensor lies in."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).clone()


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
