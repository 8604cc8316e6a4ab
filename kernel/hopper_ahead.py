"""Compiling the Hopper path's kernel ahead of time, with no GPU: its variants, and what its descriptors are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel

from .hopper import ROWS, TRITONS, HopperTile
from .tiles import block_d

ARCH = 90
AVAILABLE = triton.__version__.startswith(TRITONS)
"""Whether this Triton is one that the path runs with."""
SPILLED = 512
"""Bytes that a thread may spill, stores and loads together.

ptxas adds up the programs of all warps: two or three times what happens once for each query tile, and scalars of the
warps that load, all outside the loops over key tiles. The most is 392 bytes (376 with Triton 3.7), three times 131: the
columns of the first mask, of 192x128x4x2 masked but not causal.
"""
_POINTERS = {"lse_ptr": "*fp32", "seqlens_ptr": "*i32"}
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
    """Compile the kernel for sm_90 and a positive scale; dtype: "fp16" or "bf16"; the lengths are int32."""
    # Imported here: where Triton is another, Gluon need not be there.
    from triton.experimental.gluon._runtime import GluonASTSource

    from .flash_attn_hopper import _forward_hopper

    constants = _constants(tile, variant)
    types = {**_descriptors(tile, d, dtype), **_POINTERS}
    parameters = _forward_hopper.params
    signature = {
        p.name: "constexpr" if p.name in constants else types.get(p.name) or p.annotation_type for p in parameters
    }
    constexprs = {(i,): constants[p.name] for i, p in enumerate(parameters) if p.name in constants}
    source = GluonASTSource(fn=_forward_hopper, signature=signature, constexprs=constexprs, attrs={})
    return triton.compile(source, target=GPUTarget("cuda", ARCH, _WARP_SIZE), options={"num_warps": 4})


def _constants(tile: HopperTile, variant: Variant) -> dict[str, Any]:
    return {
        **{"GROUPS": tile.groups, "SLOTS": tile.slots, "Q_SLOTS": tile.q_slots, "REGISTERS": tile.registers},
        **{"CAUSAL": variant.causal, "MASKED": variant.masked, "NEGATIVE": False},
        **({} if variant.lengths else {"seqlens_ptr": None}),
    }


def _descriptors(tile: HopperTile, d: int, dtype: str) -> dict[str, str]:
    """The types of the four descriptors, as Triton writes them; `hopper._blocks` makes the same at run time."""
    from triton.experimental.gluon.language import NVMMASharedLayout

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    width = max(64, block_d(d))
    blocks = {
        **{"q_desc": (ROWS, width), "k_desc": (tile.BLOCK_N, width), "v_desc": (tile.BLOCK_N, width)},
        "o_desc": (ROWS, min(width, 128)),
    }
    return {
        name: f"tensordesc<{dtype}[1, 1, {rows}, {columns}],{layout!r}>" for name, (rows, columns) in blocks.items()
    }
