"""The attention functions that are timed: each one a decorated `bind`, which makes a call of a row's tensors.

A new one is one function, or one line for another way to call ours:

    ours("ours_portable", "ours, portable path", config="portable")

`bind` may prepare what a user would keep between calls (a mask); only the call that it returns is timed. It raises
`Refused`, or NotImplementedError, for what the provider does not do. `kernel` is imported late, once the device is
known: Triton reads TRITON_INTERPRET when it decorates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from speed.rows import Inputs, Row, visible

Call = Callable[[], Tensor]
Bind = Callable[[Row, Inputs], Call]

EVERYWHERE = ("cpu", "cuda")
MATH_SCORES = 1 << 28
"""SDPA's math backend keeps several fp32 copies of the scores: past this many it only shows that memory ends."""

PROVIDERS: dict[str, Provider] = {}


class Refused(Exception):
    """The provider does not do this kind of problem."""


@dataclass(frozen=True)
class Provider:
    """A way to compute attention.

    around: entered around all calls, checks and timing alike, so that choosing a backend costs no call anything.
    package: the module that must be there. scores: the largest B·Hq·N² it is given. ours: whether it is under test,
    and then called with this config.
    """

    name: str
    label: str
    bind: Bind
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    devices: tuple[str, ...] = EVERYWHERE
    package: str | None = None
    scores: int | None = None
    ours: bool = False
    config: str | None = None

    def absent(self, device: str) -> str | None:
        """Why it cannot be timed here at all; None where it can."""
        if device not in self.devices:
            return f"it runs on {' and '.join(self.devices)} only"
        if self.package is not None and not _is_there(self.package):
            return f"the module {self.package} is not installed"
        return None

    def too_large(self, row: Row) -> bool:
        """Whether the row has more scores than it is given."""
        return self.scores is not None and row.B * row.Hq * row.N * row.N > self.scores


def provider(name: str, label: str, **limits: Any) -> Callable[[Bind], Bind]:
    """Put the decorated `bind` among the providers."""

    def register(bind: Bind) -> Bind:
        PROVIDERS[name] = Provider(name, label, bind, **limits)
        return bind

    return register


def ours(name: str, label: str, **pinned: Any) -> Provider:
    """Put a way to call `kernel.flash_attention` among the providers, with these of its keywords pinned."""

    def bind(row: Row, inputs: Inputs) -> Call:
        from kernel import flash_attention

        causal, seqlens_k = row.causal, inputs.seqlens_k
        call = partial(flash_attention, inputs.q, inputs.k, inputs.v, causal=causal, seqlens_k=seqlens_k, **pinned)
        return cast(Call, call)

    PROVIDERS[name] = Provider(name, label, bind, ours=True, config=pinned.get("config"))
    return PROVIDERS[name]


def named(name: str) -> Provider:
    """A provider by its name; "ours:config=64x64x4x3,key=value" pins keywords of ours. KeyError in one sentence."""
    if name in PROVIDERS:
        return PROVIDERS[name]
    base, _, pins = name.partition(":")
    pairs = [pin.partition("=") for pin in pins.split(",")]
    if base != "ours" or not all(key and value for key, _, value in pairs):
        raise KeyError(f"provider must be one of {', '.join(PROVIDERS)}, or ours:KEY=VALUE,..., got {name!r}.")
    return ours(name, f"ours, {', '.join(value for _, _, value in pairs)}", **{key: value for key, _, value in pairs})


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@provider("naive", "naive torch")
def naive(row: Row, inputs: Inputs) -> Call:
    """The definition with the scores in memory, in the dtype of q, as anybody writes it first."""
    seen = visible(row, inputs)
    hidden = None if seen is None else ~seen

    def call() -> Tensor:
        k, v = inputs.k, inputs.v
        if row.group > 1:
            k, v = (x.repeat_interleave(row.group, dim=1) for x in (k, v))
        S = (inputs.q @ k.mT).mul_(row.scale)
        if hidden is not None:
            S.masked_fill_(hidden, -torch.inf)
        return S.softmax(-1) @ v

    return call


def _sdpa(row: Row, inputs: Inputs) -> Call:
    """SDPA; padding takes a mask, and with one `is_causal` may not be asked for too."""
    q, k, v = inputs.q, inputs.k, inputs.v
    mask = visible(row, inputs) if row.padding else None
    causal, gqa = row.causal and mask is None, row.group > 1
    return lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def _sdpa_by(name: str, label: str, backend: SDPBackend, **limits: Any) -> None:
    provider(name, label, around=partial(sdpa_kernel, backend), **limits)(_sdpa)


_sdpa_by("sdpa_flash", "FlashAttention-2 (SDPA)", SDPBackend.FLASH_ATTENTION)
_sdpa_by("sdpa_cudnn", "cuDNN (SDPA)", SDPBackend.CUDNN_ATTENTION, devices=("cuda",))
_sdpa_by("sdpa_efficient", "memory-efficient (SDPA)", SDPBackend.EFFICIENT_ATTENTION, devices=("cuda",))
_sdpa_by("sdpa_math", "math (SDPA)", SDPBackend.MATH, scores=MATH_SCORES)


@provider("flex_compiled", "FlexAttention, compiled")
def flex_compiled(row: Row, inputs: Inputs) -> Call:
    """FlexAttention compiled for exactly this shape, its block mask made ahead."""
    asked = {"block_mask": _block_mask(row, inputs), "enable_gqa": row.group > 1}
    return partial(_compiled_flex(), inputs.q, inputs.k, inputs.v, **asked)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    import torch._functorch.config as functorch
    from torch.nn.attention.flex_attention import flex_attention

    # Past its limits torch.compile goes on uncompiled, and another function than this one would be timed.
    limits: Any = torch._dynamo.config
    limits.recompile_limit = limits.accumulated_recompile_limit = 1 << 20
    # A backward that may be run again must not hand the memory that the forward kept to its own outputs.
    of_autograd: Any = functorch
    of_autograd.donated_buffer = False
    return torch.compile(flex_attention, dynamic=False)


def _block_mask(row: Row, inputs: Inputs) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    lengths, device = inputs.seqlens_k, inputs.q.device
    if lengths is None:
        return create_block_mask(lambda b, h, i, j: j <= i, None, None, row.N, row.N, device) if row.causal else None

    def held(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j < lengths[b]) & (j <= i) if row.causal else j < lengths[b]

    return create_block_mask(held, row.B, None, row.N, row.N, device)


@provider("flash_attn", "FlashAttention-2 (flash-attn)", devices=("cuda",), package="flash_attn.flash_attn_interface")
def flash_attn(row: Row, inputs: Inputs) -> Call:
    """flash-attn's own interface, in (B, N, H, d), nothing copied."""
    from flash_attn import flash_attn_func

    return _in_bshd(flash_attn_func, row, inputs)


@provider("flash_attn_4", "FlashAttention-4", devices=("cuda",), package="flash_attn.cute")
def flash_attn_4(row: Row, inputs: Inputs) -> Call:
    """flash-attn-4's interface, in (B, N, H, d), nothing copied."""
    from flash_attn.cute import flash_attn_func

    return _in_bshd(flash_attn_func, row, inputs)


def _in_bshd(function: Callable[..., Any], row: Row, inputs: Inputs) -> Call:
    """A call of flash-attn's kind; its causal mask is lower-right, which is the same for as many keys as queries."""
    if row.padding:
        raise Refused("lengths would need packed tensors")
    q, k, v = (x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))

    def call() -> Tensor:
        returned = function(q, k, v, causal=row.causal)
        O: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return O.transpose(1, 2)

    return call


ours("ours", "ours")
ours("ours_portable", "ours, portable path", config="portable")
