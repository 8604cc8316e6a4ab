"""FlashAttention forward in Triton: one source for the interpreter and the compiler.

Online softmax over key tiles with a running max m, a running sum l and an accumulator in fp32
(Dao et al., https://arxiv.org/abs/2205.14135 and https://arxiv.org/abs/2307.08691). No Nq x Nk tensor exists.

A query tile visits its wholly visible key tiles first, in a loop without a mask, then the tiles that the diagonal
or the end of the keys cuts, in a loop with one. Key tiles that no row of the query tile sees are never visited.
"""

import contextlib
import functools
import math

import numpy as np
import torch
import triton
import triton.language as tl

from .arguments import Problem, check_arguments
from .tiles import (
    INTERPRETER_TILE,
    TileConfig,
    block_d,
    check_pinned,
    default_tile,
    device_arch,
    fitting_space,
    parse_config,
    space,
)

# A fuzzer throws every length, stride and alignment at the kernel: none of them may compile a variant of its own.
_NOT_SPECIALIZED = [
    *("q_ptr", "k_ptr", "v_ptr", "o_ptr", "lse_ptr", "seqlens_ptr", "skipped_ptr"),
    *("stride_qb", "stride_qh", "stride_qn", "stride_qd", "stride_kb", "stride_kh", "stride_kn", "stride_kd"),
    *("stride_vb", "stride_vh", "stride_vn", "stride_vd", "stride_seqlens"),
    *("heads", "Hq", "group", "Nq", "Nk", "d", "lower_right", "section", "bucket", "scale_log2"),
]


@triton.jit
def _widen(x):
    """Bf16 to fp32 by its bits: the stock interpreter gets denormals wrong and multiplies raw bits in tl.dot."""
    return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _narrow(x):
    """Fp32 to the nearest bf16, ties to even, by its bits: the stock interpreter truncates, and denormals go wrong."""
    bits = x.to(tl.uint32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _visit(
    acc,
    m,
    l,
    q,
    k_ptr,
    v_ptr,
    k_offsets,
    v_offsets,
    k_step,
    v_step,
    offs_n,
    row_limit,
    in_d,
    scale_log2,
    start,
    stop,
    visible,
    BLOCK_N: tl.constexpr,
    PAD_D: tl.constexpr,
    MASKED: tl.constexpr,
    FAST: tl.constexpr,
    WIDEN: tl.constexpr,
    COUNT: tl.constexpr,
):
    """Visit the key tiles of [start, stop), one online softmax step each.

    Returns acc, m, l, the advanced pointers and, with COUNT, the number of tiles visited.

    m is the running max of the scores in log2 units, l the running sum of exp2(score - m); key columns at or past
    `visible` are not read, and with MASKED row i sees the columns below row_limit[i].
    """
    io_dtype = v_ptr.dtype.element_ty
    visited = 0
    for n0 in tl.range(start, stop, BLOCK_N, num_stages=1 if MASKED else None, disable_licm=MASKED):
        k_tile = k_ptr + k_offsets
        v_tile = v_ptr + v_offsets
        if FAST:
            k_tile = tl.multiple_of(k_tile, (16, 16))
            v_tile = tl.multiple_of(v_tile, (16, 16))
        if MASKED:
            columns = n0 + offs_n
            readable = (columns < visible)[:, None]
            if PAD_D:
                readable = readable & in_d
            k = tl.load(k_tile, mask=readable, other=0.0)
        elif PAD_D:
            k = tl.load(k_tile, mask=in_d, other=0.0)
        else:
            k = tl.load(k_tile)
        if WIDEN:
            k = _widen(k)

        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if MASKED:
            v = tl.load(v_tile, mask=readable, other=0.0)
        elif PAD_D:
            v = tl.load(v_tile, mask=in_d, other=0.0)
        else:
            v = tl.load(v_tile)
        # scale_log2 > 0, so scaling commutes with the max, and scaling and subtracting it are one FMA.
        if MASKED:
            scores = tl.where(columns[None, :] < row_limit, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1) * scale_log2)
        m_finite = m_new
        if MASKED:
            # A row that has seen no key yet keeps m = -inf; -inf - -inf would be NaN.
            m_finite = tl.where(m_new == -float("inf"), 0.0, m_new)
        p = tl.math.exp2(scores * scale_log2 - m_finite[:, None])
        alpha = tl.math.exp2(m - m_finite)
        l = l * alpha + tl.sum(p, 1)
        acc = acc * alpha[:, None]
        if WIDEN:
            v = _widen(v)
            p = _widen(_narrow(p))
        else:
            p = p.to(io_dtype)
        acc = tl.dot(p, v, acc, input_precision="ieee")
        m = m_new
        k_ptr += k_step
        v_ptr += v_step
        if COUNT:
            visited += 1
    return acc, m, l, k_ptr, v_ptr, visited


@triton.jit(do_not_specialize=_NOT_SPECIALIZED)
def _forward(
    q_ptr,
    k_ptr,
    v_ptr,
    o_ptr,
    lse_ptr,
    seqlens_ptr,
    skipped_ptr,
    stride_qb: tl.int64,
    stride_qh: tl.int64,
    stride_qn: tl.int64,
    stride_qd: tl.int64,
    stride_kb: tl.int64,
    stride_kh: tl.int64,
    stride_kn: tl.int64,
    stride_kd: tl.int64,
    stride_vb: tl.int64,
    stride_vh: tl.int64,
    stride_vn: tl.int64,
    stride_vd: tl.int64,
    stride_seqlens: tl.int64,
    heads: tl.int32,
    Hq: tl.int32,
    group: tl.int32,
    Nq: tl.int32,
    Nk: tl.int32,
    d: tl.int32,
    lower_right: tl.int32,
    section: tl.int32,
    bucket: tl.int64,
    scale_log2,
    BLOCK_D: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_SEQLENS: tl.constexpr,
    PAD_D: tl.constexpr,
    FAST: tl.constexpr,
    WIDE: tl.constexpr,
    SIGN: tl.constexpr,
    WIDEN: tl.constexpr,
    COUNT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One query tile of one head. `heads` is B * Hq; `section` heads share the L2 cache; `bucket` only keys autotuning.

    Constexprs: PAD_D masks the columns from d to BLOCK_D; FAST promises unit d strides and 16-byte aligned rows; WIDE
    keeps offsets inside a tile in 64 bits; SIGN, that of the scale, goes into q, exactly, since max and scaling
    commute only for scale_log2 > 0; WIDEN mends bf16 under the interpreter; COUNT stores the skipped key tiles.
    """
    # The grid is one-dimensional, since its other axes end at 65,535. Inside a section, all heads do their longest
    # query tile first, so that no long one is left over at the end.
    pid = tl.program_id(0)
    q_tiles = (Nq + BLOCK_M - 1) // BLOCK_M
    first_head = pid // (section * q_tiles) * section
    width = tl.minimum(section, heads - first_head)
    rank = pid - first_head * q_tiles
    q_tile = rank // width
    head = first_head + rank - q_tile * width
    if CAUSAL:
        q_tile = q_tiles - 1 - q_tile
    b = head // Hq
    hq = head - b * Hq
    hk = hq // group
    m0 = q_tile * BLOCK_M
    b = b.to(tl.int64)

    kv_len = Nk
    if HAS_SEQLENS:
        kv_len = tl.load(seqlens_ptr + b * stride_seqlens)
        kv_len = tl.minimum(tl.maximum(kv_len, 0), Nk).to(tl.int32)
    offs_m = tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    # Keys below `full` are seen by every row of the tile, keys at or past `visible` by none.
    visible = kv_len
    full = kv_len
    row_limit = kv_len
    if CAUSAL:
        first_limit = m0 + 1 + lower_right * (kv_len - Nq)
        last_limit = first_limit + tl.minimum(BLOCK_M, Nq - m0) - 1
        visible = tl.maximum(tl.minimum(kv_len, last_limit), 0)
        full = tl.maximum(tl.minimum(kv_len, first_limit), 0)
        row_limit = tl.minimum(first_limit + offs_m, kv_len)[:, None]
    full = full // BLOCK_N * BLOCK_N

    # 64-bit offsets to the tile, 32-bit ones inside it where they suffice.
    hk = hk.to(tl.int64)
    q_ptr += b * stride_qb + hq.to(tl.int64) * stride_qh + m0.to(tl.int64) * stride_qn
    k_ptr += b * stride_kb + hk * stride_kh
    v_ptr += b * stride_vb + hk * stride_vh
    k_step = stride_kn.to(tl.int64) * BLOCK_N
    v_step = stride_vn.to(tl.int64) * BLOCK_N
    if not WIDE:
        stride_qn = stride_qn.to(tl.int32)
        stride_kn = stride_kn.to(tl.int32)
        stride_vn = stride_vn.to(tl.int32)
        stride_qd = stride_qd.to(tl.int32)
        stride_kd = stride_kd.to(tl.int32)
        stride_vd = stride_vd.to(tl.int32)
    q_offsets = offs_m[:, None] * stride_qn
    k_offsets = offs_n[:, None] * stride_kn
    v_offsets = offs_n[:, None] * stride_vn
    if FAST:
        # d is a whole number of 16-byte units: said so that the compiler sees it, and masks whole units.
        unit = 128 // q_ptr.dtype.element_ty.primitive_bitwidth
        d = d // unit * unit
        q_offsets += offs_d[None, :]
        k_offsets += offs_d[None, :]
        v_offsets += offs_d[None, :]
    else:
        q_offsets += offs_d[None, :] * stride_qd
        k_offsets += offs_d[None, :] * stride_kd
        v_offsets += offs_d[None, :] * stride_vd
    in_d = (offs_d < d)[None, :]
    is_query = offs_m < Nq - m0
    in_q = is_query[:, None]
    if PAD_D:
        in_q = in_q & in_d

    q_tile_ptr = q_ptr + q_offsets
    if FAST:
        q_tile_ptr = tl.multiple_of(q_tile_ptr, (16, 16))
    q = tl.load(q_tile_ptr, mask=in_q, other=0.0)
    io_dtype = q.dtype
    if WIDEN:
        q = _widen(q)
    if SIGN < 0:
        q = -q
    if SIGN == 0:
        q = tl.full([BLOCK_M, BLOCK_D], 0.0, q.dtype)

    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.full([BLOCK_M], 0.0, tl.float32)
    acc = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    acc, m, l, k_ptr, v_ptr, visited = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, 0, full, visible, BLOCK_N, PAD_D, False, FAST, WIDEN, COUNT,
    )  # fmt: skip
    acc, m, l, _, _, visited_masked = _visit(
        acc, m, l, q, k_ptr, v_ptr, k_offsets, v_offsets, k_step, v_step, offs_n, row_limit, in_d,
        scale_log2, full, visible, visible, BLOCK_N, PAD_D, True, FAST, WIDEN, COUNT,
    )  # fmt: skip

    l = tl.where(l == 0.0, 1.0, l)
    lse = (m + tl.math.log2(l)) * 0.6931471805599453
    row0 = head.to(tl.int64) * Nq + m0
    tl.store(lse_ptr + row0 + offs_m, lse, mask=is_query)
    acc = acc * (1.0 / l)[:, None]
    if WIDEN:
        acc = _narrow(acc)
    o_tile_ptr = o_ptr + row0 * d + (offs_m[:, None] * d + offs_d[None, :])
    if FAST:
        o_tile_ptr = tl.multiple_of(o_tile_ptr, (16, 16))
    tl.store(o_tile_ptr, acc.to(io_dtype), mask=in_q)
    if COUNT:
        k_tiles = (Nk + BLOCK_N - 1) // BLOCK_N
        tl.store(skipped_ptr + head.to(tl.int64) * q_tiles + m0 // BLOCK_M, k_tiles - visited - visited_masked)


INTERPRETED = not isinstance(_forward, triton.JITFunction)

# Sections of heads keep their keys and values within this much of the L2 cache (an H100 has 50 MB, an RTX 4070 36 MB).
_L2_BYTES = 32 << 20
# In-tile offsets of the tallest tile must stay below 2^31 for 32-bit arithmetic.
_TALLEST_TILE = 256


def flash_attn_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (B, Hq, Nq, d) over k, v (B, Hk, Nk, d): O like q, contiguous, and LSE (B, Hq, Nq) in fp32.

    The arguments and errors are those of `kernel.flash_attention`.
    """
    problem = check_arguments(q, k, v, causal, seqlens_k, scale)
    return _launch(problem, q, k, v, seqlens_k, parse_config(config), None)


def flash_attn_forward_debug(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool | str = False,
    seqlens_k: torch.Tensor | None = None,
    scale: float | None = None,
    config: TileConfig | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return O and the key tiles left out, int32 (B, Hq, query tiles), counted by the kernel as it runs."""
    problem = check_arguments(q, k, v, causal, seqlens_k, scale)
    tile = parse_config(config)
    if tile == "autotune":
        raise ValueError('config must name a tile in debug mode, where the counts depend on it, got "autotune"')
    tile = _usable_tile(tile, q)
    q_tiles = triton.cdiv(problem.Nq, tile.BLOCK_M)
    skipped = torch.empty(problem.B, problem.Hq, q_tiles, dtype=torch.int32, device=q.device)
    o, _ = _launch(problem, q, k, v, seqlens_k, tile, skipped)
    return o, skipped


def skipped_tiles(Nq: int, Nk: int, kv_len: int, alignment: str | None, tile: TileConfig) -> list[int]:
    """Closed form of the debug counts of one head: the key tiles that each query tile leaves out."""
    shift = kv_len - Nq if alignment == "lower_right" else 0
    counts = []
    for m0 in range(0, Nq, tile.BLOCK_M):
        visible = kv_len
        if alignment is not None:
            visible = max(0, min(kv_len, min(m0 + tile.BLOCK_M, Nq) + shift))
        counts.append(triton.cdiv(Nk, tile.BLOCK_N) - triton.cdiv(visible, tile.BLOCK_N))
    return counts


def _launch(
    problem: Problem,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    seqlens_k: torch.Tensor | None,
    tile: TileConfig | str | None,
    skipped: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate O and LSE and run one program per query tile and head."""
    _check_device(q)
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    heads = problem.B * problem.Hq
    if heads == 0 or problem.Nq == 0:
        return o, lse
    sign, scale_log2 = _split_scale(problem.scale)
    strides = [_used_strides(x) for x in (q, k, v)]
    runtime = (
        *(q, k, v, o, lse, seqlens_k, skipped),
        *(stride for of_tensor in strides for stride in of_tensor),
        *(seqlens_k.stride(0) if seqlens_k is not None else 0, heads, problem.Hq, problem.Hq // problem.Hk),
        *(problem.Nq, problem.Nk, problem.d, int(problem.alignment == "lower_right"), _section(problem, q)),
        *(_bucket(problem), scale_log2),
    )
    constexprs = {
        "BLOCK_D": block_d(problem.d),
        "CAUSAL": problem.alignment is not None,
        "HAS_SEQLENS": seqlens_k is not None,
        "PAD_D": problem.d != block_d(problem.d),
        "FAST": is_fast((q, k, v), strides),
        "WIDE": is_wide(strides, block_d(problem.d)),
        "SIGN": sign,
        "WIDEN": INTERPRETED and q.dtype == torch.bfloat16,
        "COUNT": skipped is not None,
    }
    with torch.cuda.device(q.device) if q.is_cuda else contextlib.nullcontext():
        if tile == "autotune" and not INTERPRETED:
            _tuned()[lambda meta: grid(heads, problem.Nq, meta["BLOCK_M"])](*runtime, **constexprs)
        else:
            tile = _usable_tile(tile, q)
            _forward[grid(heads, problem.Nq, tile.BLOCK_M)](*runtime, **constexprs, **tile.options())
    return o, lse


def grid(heads: int, Nq: int, BLOCK_M: int) -> tuple[int]:
    """One dimension: only the first one of a CUDA grid reaches past 65,535."""
    return (heads * triton.cdiv(Nq, BLOCK_M),)


def is_fast(tensors: tuple[torch.Tensor, ...], strides: list[tuple[int, ...]]) -> bool:
    """Whether every row of every tensor is contiguous, 16-byte aligned and a multiple of 16 bytes long."""
    unit = 16 // tensors[0].element_size()
    return (
        tensors[0].shape[-1] % unit == 0
        and all(x.data_ptr() % 16 == 0 for x in tensors)
        and all(s[3] == 1 and all(stride % unit == 0 for stride in s[:3]) for s in strides)
    )


def is_wide(strides: list[tuple[int, ...]], BLOCK_D: int) -> bool:
    """Whether an offset inside a tile may reach 2^31."""
    return any(_TALLEST_TILE * s[2] + BLOCK_D * s[3] >= 2**31 for s in strides)


def _used_strides(x: torch.Tensor) -> tuple[int, ...]:
    """Strides in elements, 0 where the dimension has one entry: that stride is never used and may be anything."""
    return tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True))


def _split_scale(scale: float) -> tuple[int, float]:
    """Return the sign of the scale and |scale| * log2(e), or 0 and 1: the kernel needs the latter positive."""
    scale_log2 = float(np.float32(abs(scale) * math.log2(math.e)))
    if scale_log2 == 0.0:
        return 0, 1.0
    return (1 if scale > 0 else -1), scale_log2


def _section(problem: Problem, q: torch.Tensor) -> int:
    """Heads that run side by side: those of a KV head; for causal, longest first, as many as fit the L2 cache."""
    group = problem.Hq // problem.Hk
    if problem.alignment is None:
        return group
    kv_bytes = max(1, 2 * problem.Nk * problem.d * q.element_size())
    fitting = max(1, _L2_BYTES // kv_bytes)
    return min(problem.B * problem.Hq, group * (1 << (fitting.bit_length() - 1)))


def _bucket(problem: Problem) -> int:
    """Lengths and heads by powers of two, packed into one autotuning key."""
    sizes = (problem.Nq, problem.Nk, problem.B * problem.Hq)
    return sum(size.bit_length() << (8 * place) for place, size in enumerate(sizes))


def _check_device(q: torch.Tensor) -> None:
    if not q.is_cuda and not INTERPRETED:
        raise ValueError(
            f"q must be on a CUDA device, got {q.device}: on a CPU set TRITON_INTERPRET=1 before importing kernel"
        )


def _usable_tile(tile: TileConfig | str | None, q: torch.Tensor) -> TileConfig:
    """The pinned tile, if it can run, or the default one."""
    if INTERPRETED:
        return tile if isinstance(tile, TileConfig) else INTERPRETER_TILE
    where = (block_d(q.shape[-1]), q.dtype, device_arch(q.device))
    if not isinstance(tile, TileConfig):
        return default_tile(*where)
    check_pinned(tile, *where)
    return tile


@functools.cache
def _tuned() -> triton.runtime.Autotuner:
    """The kernel under Triton's autotuner, over the whole space; repeating a pure kernel is harmless."""
    return triton.autotune(
        configs=[triton.Config(tile.blocks(), tile.num_warps, tile.num_stages) for tile in space()],
        key=["BLOCK_D", "CAUSAL", "HAS_SEQLENS", "PAD_D", "FAST", "WIDE", "SIGN", "COUNT", "bucket"],
        prune_configs_by={"early_config_prune": _fitting_configs},
    )(_forward)


def _fitting_configs(configs: list[triton.Config], arguments: dict, **constexprs: int) -> list[triton.Config]:
    """The configurations that fit the device by shared memory and registers."""
    q = arguments["q_ptr"]
    tiles = set(fitting_space(constexprs["BLOCK_D"], q.dtype, device_arch(q.device)))
    return [c for c in configs if TileConfig(**c.kwargs, num_warps=c.num_warps, num_stages=c.num_stages) in tiles]
