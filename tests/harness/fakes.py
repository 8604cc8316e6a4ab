"""Stand-ins for the packages that the adapters adapt: attention in float64, each by its package's convention."""

from __future__ import annotations

import math
from types import ModuleType

import torch


class Unsupported(ValueError):
    """What fastflash-attention raises outside its contract."""


def attend(q, k, v, causal=None, scale=None, lengths=None):
    """O and LSE of (B, H, N, d); causal is None, "upper_left" or "lower_right", lengths a list of keys seen."""
    (B, Hq, Nq, d), (_, Hk, Nk, _) = q.shape, k.shape
    lengths = torch.tensor([Nk] * B if lengths is None else lengths)[:, None, None, None]
    rows, keys = torch.arange(Nq)[:, None], torch.arange(Nk)
    seen = keys < lengths
    if causal is not None:
        seen = seen & (keys <= rows + (lengths - Nq if causal == "lower_right" else 0))
    past_end = (keys >= lengths).transpose(-1, -2)
    k, v = (t.double().masked_fill(past_end, 0).repeat_interleave(Hq // Hk, 1) for t in (k, v))
    S = (q.double() @ k.mT * (d**-0.5 if scale is None else scale)).masked_fill(~seen, -torch.inf)
    LSE = S.logsumexp(-1)
    P = (S - LSE.masked_fill(LSE.isinf(), 0)[..., None]).exp()
    return (P @ v).to(q.dtype), LSE.float()


def bshd(q, k, v, *asked):
    """The same in (B, N, H, d)."""
    O, LSE = attend(*(t.transpose(1, 2) for t in (q, k, v)), *asked)
    return O.transpose(1, 2), LSE


def sequences(q, k, v, starts_q, starts_k, *asked):
    """The same over packed (tokens, H, d)."""
    parts = []
    for b in range(len(starts_q) - 1):
        mine, theirs = (slice(starts[b], starts[b + 1]) for starts in (starts_q, starts_k))
        parts.append(bshd(q[None, mine], k[None, theirs], v[None, theirs], *asked)[0][0])
    return torch.cat(parts)


def lower_right(causal):
    return "lower_right" if causal else None


def upper_left(causal):
    return "upper_left" if causal else None


def alike(q, k, v):
    assert q.shape == k.shape == v.shape


def flash_attn():
    def flash_attn_func(q, k, v, *, softmax_scale, causal):
        return bshd(q, k, v, lower_right(causal), softmax_scale)[0]

    def flash_attn_varlen_func(q, k, v, starts_q, starts_k, longest_q, longest_k, *, softmax_scale, causal):
        assert starts_q.dtype == starts_k.dtype == torch.int32
        assert (longest_q, longest_k) == (max(starts_q.diff()), max(starts_k.diff()))
        return sequences(q, k, v, starts_q, starts_k, lower_right(causal), softmax_scale)

    return {"flash_attn": (flash_attn_func, flash_attn_varlen_func)}


def flash_attn_4():
    def flash_attn_func(q, k, v, *, softmax_scale, causal, return_lse):
        O, LSE = bshd(q, k, v, lower_right(causal), softmax_scale)
        return O, LSE if return_lse else None

    def flash_attn_varlen_func(q, k, v, *, seqused_k, softmax_scale, causal, return_lse):
        O, LSE = bshd(q, k, v, lower_right(causal), softmax_scale, seqused_k.tolist())
        return O, LSE if return_lse else None

    return {"flash_attn": (), "flash_attn.cute": (flash_attn_func, flash_attn_varlen_func)}


def xformers():
    class LowerTriangularMask:
        causal, q_seqlen = "upper_left", None

    class LowerTriangularFromBottomRightMask(LowerTriangularMask):
        causal = "lower_right"

    class BlockDiagonalPaddedKeysMask:
        causal = None

        @classmethod
        def from_seqlens(cls, q_seqlen, kv_padding, kv_seqlen):
            made = cls()
            made.q_seqlen, made.kv_padding, made.kv_seqlen = q_seqlen, kv_padding, kv_seqlen
            return made

    class BlockDiagonalCausalWithOffsetPaddedKeysMask(BlockDiagonalPaddedKeysMask):
        causal = "lower_right"

    def memory_efficient_attention(q, k, v, *, attn_bias, scale):
        shape, lengths = q.shape, None
        q, k, v = (t.flatten(2, 3) if t.dim() == 5 else t for t in (q, k, v))
        if attn_bias is not None and attn_bias.q_seqlen is not None:
            lengths = attn_bias.kv_seqlen
            q = q.reshape(len(lengths), attn_bias.q_seqlen[0], *q.shape[2:])
            k, v = (t.reshape(len(lengths), attn_bias.kv_padding, *t.shape[2:]) for t in (k, v))
        causal = None if attn_bias is None else attn_bias.causal
        return bshd(q, k, v, causal, scale, lengths)[0].reshape(shape)

    masks = (
        BlockDiagonalPaddedKeysMask,
        BlockDiagonalCausalWithOffsetPaddedKeysMask,
        LowerTriangularFromBottomRightMask,
    )
    ops = (LowerTriangularMask, memory_efficient_attention)
    return {"xformers": (), "xformers.ops": ops, "xformers.ops.fmha": (), "xformers.ops.fmha.attn_bias": masks}


def flashinfer():
    def single_prefill_with_kv_cache(q, k, v, *, causal, sm_scale, kv_layout, return_lse):
        assert kv_layout == "HND"
        assert return_lse
        O, LSE = attend(q.transpose(0, 1)[None], k[None], v[None], lower_right(causal), sm_scale)
        return O[0].transpose(0, 1), (LSE[0].T / math.log(2))

    return {"flashinfer": (single_prefill_with_kv_cache,)}


def cuda_triton_multiarch():
    def flash_attention_bhsd(q, k, v, *, is_causal):
        return attend(q, k, v, upper_left(is_causal))[0]

    return {"kernels": (flash_attention_bhsd,)}


def cuda_triton_multiarch_full():
    def flash_attention_full_triton(q, k, v, *, causal):
        alike(q, k, v)
        assert q.stride() == k.stride() == v.stride()
        return attend(q, k, v, upper_left(causal))[0]

    return {"kernels": (), "kernels.flash_attention_full": (flash_attention_full_triton,)}


def flash_attention_x():
    def flash_attn_full(q, k, v, *, sm_scale):
        return attend(q, k, v, None, sm_scale)[0]

    def flash_attn_causal(q, k, v, *, sm_scale):
        return attend(q, k, v, "lower_right", sm_scale)[0]

    return {"flash_attention_x": (flash_attn_full, flash_attn_causal)}


def flash_attention_triton():
    def flash_attention_v2(q, k, v, *, softmax_scale):
        return attend(q, k, v, "upper_left", softmax_scale)[0]

    return {"flash_attention_triton": (flash_attention_v2,)}


def flashattention2_custom_mask():
    def flash_attention_custom_mask(q, k, v, mask, sm_scale):
        alike(q, k, v)
        N = q.shape[2]
        assert mask is None or torch.equal(mask, torch.ones(N, N, dtype=torch.int32).tril().expand(mask.shape))
        return attend(q, k, v, upper_left(mask is not None), sm_scale)[0]

    return {"fa2_custom_mask": (flash_attention_custom_mask,)}


def conch():
    def varlen_attention(q, keys, values, starts, longest, lengths, longest_k, *, block_table, causal, scale, strict):
        k, v = (cache[block_table.long()].flatten(1, 2)[:, :longest_k] for cache in (keys, values))
        q = q.unflatten(0, (len(lengths), longest))
        return bshd(q, k, v, lower_right(causal), scale, lengths.tolist())[0].flatten(0, 1)

    return dict.fromkeys(("conch", "conch.ops", "conch.ops.attention"), ()) | {
        "conch.ops.attention.varlen_attention": (varlen_attention,)
    }


def aule():
    def flash_attention(q, k, v, *, causal, scale):
        return attend(q, k, v, upper_left(causal), scale)[0]

    return {"aule": (flash_attention,)}


def aule_triton():
    def flash_attention_triton(q, k, v, *, causal, scale):
        return attend(q, k, v, upper_left(causal), scale)[0]

    return {"aule": (flash_attention_triton,)}


def fasterkernels():
    def flash_attention_2_fwd(q, k, v, *, sm_scale):
        return attend(q, k, v, None, sm_scale)[0]

    return {"fskernels": (), "fskernels.triton": (), "fskernels.triton.triton_fa2": (flash_attention_2_fwd,)}


def flashnn():
    class FlashAttention:
        def __call__(self, q, k, v, causal, sm_scale):
            assert {t.stride(-1) for t in (q, k, v)} == {1}
            return bshd(q, k, v, upper_left(causal), sm_scale)[0]

    return {"flashnn": (FlashAttention,)}


def jvp_flash_attention():
    def attention(q, k, v, *, causal, sm_scale):
        alike(q, k, v)
        assert q.shape[2] % 2 == 0
        return attend(q, k, v, upper_left(causal), sm_scale)[0]

    return {"jvp_flash_attention": (), "jvp_flash_attention.jvp_attention": (attention,)}


def liger_kernel():
    def liger_fused_neighborhood_attention(q, k, v, *, kernel_size, scale):
        alike(q, k, v)
        assert kernel_size // 2 >= q.shape[2] - 1
        return attend(q, k, v, None, scale)[0]

    fakes = dict.fromkeys(("liger_kernel", "liger_kernel.transformers"), ())
    return fakes | {"liger_kernel.transformers.functional": (liger_fused_neighborhood_attention,)}


def noflash_attention():
    def chunked(q, k, v, *, scale, is_causal):
        return attend(q, k, v, upper_left(is_causal), scale)[0]

    def is_enabled():
        return False

    tiers = dict.fromkeys(("chunked_sdpa", "chunked_sdpa_online", "chunked_sdpa_inplace"), chunked)
    return {"noflash_attention": (is_enabled, *tiers.items())}


def trinix():
    def triton_attn_func(q, k, v, *, softmax_scale, causal):
        return bshd(q, k, v, upper_left(causal), softmax_scale)[0]

    return {"trinix": (triton_attn_func,)}


def fla():
    def parallel_attn(q, k, v, *, scale):
        return bshd(q, k, v, "upper_left", scale)[0]

    return {"fla": (), "fla.ops": (), "fla.ops.attn": (), "fla.ops.attn.parallel": (parallel_attn,)}


def fastflash_attention():
    def fast_attention(q, k, v, *, is_causal, scale):
        if q.shape != k.shape:
            raise Unsupported("shapes differ")
        return attend(q, k, v, upper_left(is_causal), scale)[0]

    return {"fastflash_attention": (fast_attention, ("UnsupportedConfig", Unsupported))}


PACKAGES = (
    flash_attn,
    flash_attn_4,
    xformers,
    flashinfer,
    cuda_triton_multiarch,
    cuda_triton_multiarch_full,
    flash_attention_x,
    flash_attention_triton,
    flashattention2_custom_mask,
    conch,
    aule,
    aule_triton,
    fasterkernels,
    flashnn,
    jvp_flash_attention,
    liger_kernel,
    noflash_attention,
    trinix,
    fla,
    fastflash_attention,
)


def modules(package):
    """The fake modules of a package, by name."""
    made = {}
    for name, members in package().items():
        made[name] = ModuleType(name)
        for member in members:
            key, value = member if isinstance(member, tuple) else (member.__name__, member)
            setattr(made[name], key, value)
    return made
