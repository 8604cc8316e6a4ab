"""Compiling the Hopper paths' kernels ahead of time, with no GPU: their variants, and what their descriptors are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from ..hopper import backward as hopper_backward
from ..hopper import backward_fused
from ..hopper.forward import ROWS, TRITONS, HopperTile, tile_width

ARCH = 90
AVAILABLE = triton.__version__.startswith(TRITONS)
"""Whether this Triton is one that the path runs with."""
SPILLED = 512
"""Bytes that a thread may spill, stores and loads together.

ptxas adds up the programs of all warps: two or three times what happens once for each query tile, and scalars of the
warps that load, all outside the loops over key tiles. The most is 392 bytes (376 with Triton 3.7), three times 131: the
columns of the first mask, of 192x128x4x2 masked but not causal.
"""
SPILLED_FUSED = 768
"""The same of the fused backward's kernels, of which the most is 660 (128 columns, causal with lengths).

The arguments of a warpgroup that is not the first are in registers, a third of them pointers to descriptors. Those that
a key tile needs once are spilled; of the loop over visits, a dozen loads of scalars in the one of 128 columns.
"""
_POINTERS = {"lse_ptr": "*fp32", "stats_ptr": "*fp32", "seqlens_ptr": "*i32", "sum_ptr": "*fp32"}
_WARP_SIZE = 32


@dataclass(frozen=True)
class Variant:
    """What a problem's mask makes of the kernel; masked: some row may see some key tile in part."""

    causal: bool
    masked: bool
    lengths: bool

    def __str__(self) -> str:
        mask = "causal" if self.causal else "masked" if self.masked else "whole"
        return f"{mask}, lengths" if self.lengths else mask


VARIANTS = (
    Variant(causal=False, masked=False, lengths=False),
    Variant(causal=False, masked=True, lengths=False),
    Variant(causal=True, masked=True, lengths=False),
    Variant(causal=True, masked=True, lengths=True),
)


def compile_hopper(tile: HopperTile, d: int, dtype: str, variant: Variant) -> CompiledKernel:
    """Compile the forward kernel for sm_90 and a positive scale; dtype: "fp16" or "bf16"; the lengths are int32."""
    # Imported here: where Triton is another, Gluon need not be there.
    from ..hopper.device.forward import _forward_hopper

    width = tile_width(d)
    constants = {
        **{"GROUPS": tile.groups, "SLOTS": tile.slots, "Q_SLOTS": tile.q_slots, "REGISTERS": tile.registers},
        **{"CAUSAL": variant.causal, "MASKED": variant.masked, "NEGATIVE": False},
    }
    blocks = {
        **{"q_desc": (ROWS, width), "k_desc": (tile.BLOCK_N, width), "v_desc": (tile.BLOCK_N, width)},
        "o_desc": (ROWS, min(width, 128)),
    }
    return _compile(_forward_hopper, constants, _descriptors(blocks, dtype), variant)


def compile_hopper_kv(tile: hopper_backward.Tile, d: int, dtype: str, variant: Variant) -> CompiledKernel:
    """Compile the kernel of dK and dV, likewise."""
    from ..hopper.device.backward_kv import _backward_kv_hopper

    width = tile_width(d)
    constants = {"SLOTS": tile.slots, "KV_SLOTS": tile.own, **_of_backward(variant)}
    blocks = {
        **dict.fromkeys(("q_desc", "do_desc"), (tile.BLOCK_M, width)),
        **dict.fromkeys(("k_desc", "v_desc", "dk_desc", "dv_desc"), (ROWS, width)),
    }
    types = {**_descriptors(blocks, dtype), "stats_desc": _descriptor((1, tile.BLOCK_M), "fp32", swizzle=0)}
    return _compile(_backward_kv_hopper, constants, types, variant)


def compile_hopper_q(tile: hopper_backward.Tile, d: int, dtype: str, variant: Variant) -> CompiledKernel:
    """Compile the kernel of dQ, likewise."""
    from ..hopper.device.backward_q import _backward_q_hopper

    width = tile_width(d)
    constants = {"SLOTS": tile.slots, "Q_SLOTS": tile.own, "MASKED": variant.masked, **_of_backward(variant)}
    blocks = {
        **dict.fromkeys(("q_desc", "do_desc", "dq_desc"), (ROWS, width)),
        **dict.fromkeys(("k_desc", "v_desc"), (tile.BLOCK_N, width)),
    }
    return _compile(_backward_q_hopper, constants, _descriptors(blocks, dtype), variant)


def compile_hopper_fused(
    tile: backward_fused.FusedTile, d: int, dtype: str, variant: Variant
) -> CompiledKernel:  # fmt: skip
    """Compile the kernel of dQ, dK and dV in one, likewise."""
    width = tile_width(d)
    constants = {
        **backward_fused.constexprs_of(width, tile),
        **{"CAUSAL": variant.causal, "MASKED": variant.masked},
    }
    blocks = {
        **dict.fromkeys(("q_desc", "do_desc"), (tile.BLOCK_M, width)),
        **dict.fromkeys(("k_desc", "v_desc", "dk_desc", "dv_desc"), (ROWS, width)),
    }
    sums = _descriptor((tile.BLOCK_M, backward_fused.SUM_COLUMNS), "fp32", swizzle=128)
    stats = _descriptor((1, tile.BLOCK_M), "fp32", swizzle=0)
    types = {**_descriptors(blocks, dtype), "stats_desc": stats, "sum_desc": sums}
    return _compile(backward_fused.kernel_of(width), constants, types, variant)


def _of_backward(variant: Variant) -> dict[str, Any]:
    return {"REGISTERS": hopper_backward.REGISTERS, "CAUSAL": variant.causal}


def _compile(kernel: Any, constants: dict[str, Any], types: dict[str, str], variant: Variant) -> CompiledKernel:
    from triton.experimental.gluon._runtime import GluonASTSource

    constants = constants if variant.lengths else {**constants, "seqlens_ptr": None}
    types = {**types, **_POINTERS}
    signature = {
        p.name: "constexpr" if p.name in constants else types.get(p.name) or p.annotation_type for p in kernel.params
    }
    constexprs = {(i,): constants[p.name] for i, p in enumerate(kernel.params) if p.name in constants}
    # What a launch finds out of the address: torch's allocations are aligned.
    attrs = {(i,): [["tt.divisibility", 16]] for i, p in enumerate(kernel.params) if p.name == "sum_ptr"}
    source = GluonASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attrs)
    return triton.compile(source, target=GPUTarget("cuda", ARCH, _WARP_SIZE), options={"num_warps": 4})


def _descriptors(blocks: dict[str, tuple[int, int]], dtype: str) -> dict[str, str]:
    """The types of descriptors of (B, H, N, d) tensors, as Triton writes them; `hopper.Block` makes the same."""
    return {name: _descriptor((1, 1, *block), dtype, swizzle=128) for name, block in blocks.items()}


def _descriptor(block: tuple[int, ...], dtype: str, swizzle: int) -> str:
    from triton.experimental.gluon.language import NVMMASharedLayout

    bits = {"fp16": 16, "bf16": 16, "fp32": 32}[dtype]
    layout = NVMMASharedLayout(swizzle_byte_width=swizzle, element_bitwidth=bits, rank=len(block))
    return f"tensordesc<{dtype}[{', '.join(map(str, block))}],{layout!r}>"
