"""The functions of a script. Their source is copied into it, so they use only torch and one another."""

from __future__ import annotations

import base64
import gc
import zlib
from typing import Any

import torch
from torch import Tensor

from oracles.features import MEANINGS, Mask, Pairs, Score

MASKS = {name: each.visible for name, each in MEANINGS.items() if isinstance(each, Mask)}
SCORES = {name: each.score for name, each in MEANINGS.items() if isinstance(each, Score)}
"""The meanings of features. A script has its own tables, of the features in its calls."""


def from_bytes(text: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor whose bytes were packed into a text."""
    return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(text))), dtype=dtype).reshape(shape)


def laid_out(
    values: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, size: int, device: str
) -> Tensor:
    """Return a tensor with these values in a memory of `size` elements, which is NaN elsewhere."""
    own = values[tuple(slice(None) if stride else slice(1) for stride in strides)]
    memory = torch.full((size,), torch.nan, dtype=values.dtype)
    if own.numel():
        memory.as_strided(own.shape, strides, offset).copy_(own)
    return memory.to(device).as_strided(shape, strides, offset)


def scores(q: Tensor, k: Tensor, v: Tensor, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return S, -inf where hidden, and v with a head for each query head and 0 past the lengths, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    (Hq, Nq, d), (B, Hk, Nk) = q.shape[1:], k.shape[:3]
    n = torch.full((B,), Nk, device=q.device) if "seqlens_k" not in features else features["seqlens_k"]
    at = Pairs(
        torch.arange(Nq, device=q.device)[:, None], torch.arange(Nk, device=q.device), n.view(B, 1, 1, 1), Nq, Nk
    )
    k, v = (x.masked_fill((at.j >= at.n).mT, 0.0).repeat_interleave(Hq // Hk, 1) for x in (k, v))
    S = q @ k.mT * features.get("scale", d**-0.5)
    for name, score in SCORES.items():
        S = score(features[name], S, at) if name in features else S
    for name, visible in MASKS.items():
        S = S.masked_fill(~visible(features[name], at), -torch.inf) if name in features else S
    return S, v


def reference(q: Tensor, k: Tensor, v: Tensor, features: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return O and LSE by the definition, in float64; a row that sees no key gives O = 0 and LSE = -inf."""
    S, v = scores(q, k, v, features)
    has_keys = S.isneginf().logical_not().any(-1, keepdim=True)
    S = torch.where(has_keys, S, 0.0)
    return torch.where(has_keys, S.softmax(-1) @ v, 0.0), torch.where(has_keys[..., 0], S.logsumexp(-1), -torch.inf)


def reference_gradients(
    q: Tensor, k: Tensor, v: Tensor, dO: Tensor, dLSE: Tensor | None, features: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the gradients by name, by autograd through `reference` in float64."""
    leaves = {name: x.detach().double().requires_grad_() for name, x in (("q", q), ("k", k), ("v", v))}
    floats = {n: x for n, x in features.items() if isinstance(x, Tensor) and x.is_floating_point()}
    leaves |= {name: x.detach().double().requires_grad_() for name, x in floats.items()}
    asked = features | {name: leaves[name] for name in floats}
    O, LSE = reference(leaves["q"], leaves["k"], leaves["v"], asked)
    given = [dO.double(), torch.zeros_like(LSE) if dLSE is None else dLSE.double()]
    found = torch.autograd.grad((O, LSE), tuple(leaves.values()), given, materialize_grads=True)
    return {f"d{name.capitalize()}": gradient for name, gradient in zip(leaves, found, strict=True)}


def gradients_of(outputs: Any, given: Any, inputs: Any) -> tuple[Any, ...]:
    """Return the gradients of the inputs, given those of the outputs; outputs without a grad_fn are skipped."""
    pairs = [(output, gradient) for output, gradient in zip(outputs, given, strict=False) if output.requires_grad]
    assert pairs, "What came back has no grad_fn."
    found, gradients = zip(*pairs, strict=True)
    return tuple(torch.autograd.grad(found, inputs, gradients, allow_unused=True))


def outputs(returned: Any, wants_lse: bool) -> tuple[Any, ...]:
    """Return the result as (O,) or (O, LSE)."""
    found = returned if isinstance(returned, tuple) else (returned,)
    assert len(found) == 2 or (len(found) == 1 and not wants_lse), f"{len(found)} values came back."
    return found


def require_near(name: str, got: Any, wanted: Tensor, allowed: Any, dtype: torch.dtype) -> None:
    """Raise AssertionError, naming the worst element, unless every element is within its allowed error."""
    assert isinstance(got, Tensor), f"{name} is {type(got).__name__}, not a tensor."
    assert got.shape == wanted.shape, f"{name} has the shape {tuple(got.shape)}, not {tuple(wanted.shape)}."
    assert got.dtype is dtype, f"{name} has the dtype {got.dtype}, not {dtype}."
    allowed = torch.as_tensor(allowed, dtype=torch.float64, device=got.device).expand(wanted.shape)
    error = (got.double() - wanted).abs()
    wrong = ~((error <= allowed) | (got == wanted))  # NaN is neither
    if wrong.any():
        ratio = torch.where(wrong, (error / allowed).nan_to_num(torch.inf), 0.0)
        at = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
        found = f"{name}{list(at)}: got {got[at].item():.9g}, wanted {wanted[at].item():.9g}"
        raise AssertionError(f"{found}, off by {error[at].item():.3g} where {allowed[at].item():.3g} is allowed.")


def memory_of(tensor: Tensor) -> Tensor:
    """Return a copy of all bytes of a tensor's storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).clone()


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors share their storage."""
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def tuned(function: Any) -> Any:
    """Return the function with a keyword `config`, the configuration of its autotuned kernels; None: their first."""
    from triton.runtime.autotuner import Autotuner

    tuners = [(each, each.configs) for each in gc.get_objects() if isinstance(each, Autotuner)]

    def is_named(config: Any, name: Any) -> bool:
        arguments = [f"{key}={value}" for key, value in config.kwargs.items()]
        launch = [f"num_warps={config.num_warps}", f"num_stages={config.num_stages}"]
        return name in (" ".join(arguments + part) for part in ([], launch[:1], launch[1:], launch))

    def call(*arguments: Any, config: str | None = None, **features: Any) -> Any:
        for tuner, configs in tuners:
            tuner.configs = [each for each in configs if is_named(each, config)][:1] or configs[:1]
        return function(*arguments, **features)

    return call
