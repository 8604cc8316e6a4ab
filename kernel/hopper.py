"""The Hopper path: the Gluon kernel of `flash_attn_hopper.py`, for fp16 and bf16 on sm_90."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton

from .arguments import Problem
from .flash_attn_triton import INTERPRETED
from .launch import Launch
from .plan import Plan
from .portable import split_scale
from .tiles import block_d, device_arch

TRITONS = ("3.6.",)
"""Versions of Triton with which the kernel has run on a GPU: Gluon is experimental and changes."""
COMPILED_TRITONS = ("3.7.",)
"""Versions with which it compiles, and which it takes when the environment says so."""
ANY_TRITON = "FLASHATTEST_UNTRIED_TRITON"
ROWS = 64
"""Query rows of a warpgroup, which are those of a wgmma."""
LEAST_ROWS = 128
"""Up to here the portable path's shorter tiles fill more of the device."""
_ALIGNMENT = 8
"""Elements in 16 bytes, the unit of TMA."""
_LONGEST_STRIDE = 2**40


class HopperTile(NamedTuple):
    """BLOCK_M query rows against BLOCK_N keys, with rings of so many K and V tiles and of so many Q tiles."""

    BLOCK_M: int
    BLOCK_N: int
    slots: int
    q_slots: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @property
    def groups(self) -> int:
        """Warpgroups that compute."""
        return self.BLOCK_M // ROWS

    @property
    def registers(self) -> int:
        """A thread's, of those warpgroups: the 65,536 of a multiprocessor less 24 for each thread that loads."""
        return {2: 240, 3: 160}[self.groups]


# What fits and does not spill, by head-dim tile; the comment says what each is best at, on an H100.
TILES: dict[int, tuple[HopperTile, ...]] = {
    64: (HopperTile(192, 128, 4, 2), HopperTile(128, 128, 3, 2)),  # long problems; short causal ones
    128: (HopperTile(128, 128, 2, 2), HopperTile(128, 128, 2, 1)),  # not causal; causal
    256: (HopperTile(128, 64, 2, 1),),
}
# Below as many keys the waste of a tall tile along the diagonal is more than it gains elsewhere.
_SHORT = 8192


class Hopper:
    """A `plan.Path`; its tiles read "128x128x2x1" (query rows x keys x K and V slots x Q slots)."""

    name = "hopper"

    def refusal(self, problem: Problem) -> str | None:
        """Why the problem is not one for the kernel, or None."""
        return _device_refusal(problem.device) or _problem_refusal(problem)

    def configs(self, problem: Problem) -> tuple[str, ...]:
        """The tiles of the head dim, the default first."""
        default = default_tile(problem)
        return tuple(map(str, dict.fromkeys((default, *_tiles(problem)))))

    def plan(self, problem: Problem, config: str | None = None) -> Plan:
        """The plan at a tile or at the shipped one."""
        tile = default_tile(problem) if config is None else _parse(config, problem)
        return Plan(self.name, str(tile), _launch(problem, tile))


def default_tile(problem: Problem) -> HopperTile:
    """The tile that ships for a problem; it follows from Nk, d and the mask, so that no head depends on the others."""
    tall, *others = _tiles(problem)
    if not (problem.causal and others):
        return tall
    return tall if block_d(problem.d) == 64 and problem.Nk >= _SHORT else others[0]


def _tiles(problem: Problem) -> tuple[HopperTile, ...]:
    return TILES[max(64, block_d(problem.d))]


def _parse(config: str, problem: Problem) -> HopperTile:
    """ValueError where the tile cannot be read, NotImplementedError where it is none of the head dim's."""
    if re.fullmatch(r"\d+x\d+x\d+x\d+", config) is None:
        raise ValueError(
            f"config hopper: must read like {TILES[128][0]} (rows x keys x K slots x Q slots), got {config!r}"
        )
    tile = HopperTile(*map(int, config.split("x")))
    if tile not in _tiles(problem):
        known = ", ".join(map(str, _tiles(problem)))
        raise NotImplementedError(f"config hopper:{config} must be one of {known} for the head dim {problem.d}")
    return tile


@functools.cache
def _device_refusal(device: torch.device) -> str | None:
    if INTERPRETED:
        return "Triton's interpreter does not run Gluon"
    if device_arch(device) != 90:
        return f"it is written for sm_90, and the device is sm_{device_arch(device)}"
    takes = TRITONS + (COMPILED_TRITONS if os.environ.get(ANY_TRITON) == "1" else ())
    if not triton.__version__.startswith(takes):
        return (
            f"it has not been run with Triton {triton.__version__} ({ANY_TRITON}=1 lets it run with "
            f"{', '.join(version + 'x' for version in COMPILED_TRITONS)})"
        )
    return None


def _problem_refusal(problem: Problem) -> str | None:
    if problem.dtype not in (torch.float16, torch.bfloat16):
        return "the dtype is not float16 or bfloat16"
    if problem.d % _ALIGNMENT or problem.d <= 32:
        return "the head dim is not a multiple of 8 from 40 to 256"
    if problem.Nq <= LEAST_ROWS:
        return f"there are at most {LEAST_ROWS} query rows"
    if problem.Nk == 0 or problem.heads == 0:
        return "there are no keys or no heads"
    if split_scale(problem.scale)[0] == 0:
        return "the scale is 0"
    if not all(problem.aligned):
        return "a tensor does not begin at a multiple of 16 bytes"
    sizes = ((problem.B, problem.Hq, problem.Nq), *2 * ((problem.B, problem.Hk, problem.Nk),))
    if not all(_fits(strides, size) for strides, size in zip(problem.strides, sizes, strict=True)):
        return "the strides are not 1 along the head dim and positive multiples of 8 elsewhere"
    return None


def _fits(strides: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether TMA takes the strides of a tensor whose first three sizes are given."""
    used = [stride for stride, size in zip(strides, sizes, strict=False) if size > 1]
    return strides[3] == 1 and all(s > 0 and s % _ALIGNMENT == 0 and 2 * s < _LONGEST_STRIDE for s in used)


def _launch(problem: Problem, tile: HopperTile) -> Callable[..., None]:
    """What runs the kernel on q, k, v, O, LSE and seqlens_k."""
    # Imported here: where the path is refused, Gluon need not be there.
    from .flash_attn_hopper import _forward_hopper

    launch = Launch(_forward_hopper, _grid(problem, tile), _arguments(problem, tile), {"num_warps": 4}, problem.device)
    blocks = _blocks(problem, tile)

    def run(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        o: torch.Tensor,
        lse: torch.Tensor,
        seqlens_k: torch.Tensor | None,
    ) -> None:
        launch(*(block.of(x) for block, x in zip(blocks, (q, k, v, o), strict=True)), lse, seqlens_k)

    return run


def _units(problem: Problem, tile: HopperTile) -> int:
    """What programs share among them: query tiles of all heads, or pairs of them where causal."""
    q_tiles = triton.cdiv(problem.Nq, tile.BLOCK_M)
    return problem.heads * (triton.cdiv(q_tiles, 2) if problem.causal else q_tiles)


def _grid(problem: Problem, tile: HopperTile) -> tuple[int]:
    """As many programs as the device has multiprocessors, unless there is less to do."""
    return (min(_units(problem, tile), torch.cuda.get_device_properties(problem.device).multi_processor_count),)


def _arguments(problem: Problem, tile: HopperTile) -> tuple[Any, ...]:
    """The kernel's, after its tensors."""
    sign, scale_log2 = split_scale(problem.scale)
    is_masked = problem.causal or problem.seqlens_dtype is not None or problem.Nk % tile.BLOCK_N != 0
    return (
        *(problem.seqlens_stride, problem.Hq, problem.group, problem.Nq, problem.Nk),
        *(triton.cdiv(problem.Nq, tile.BLOCK_M), int(problem.alignment == "lower_right"), _units(problem, tile)),
        *(scale_log2, tile.groups, tile.slots, tile.q_slots, tile.registers, problem.causal, is_masked, sign < 0),
    )


class Block:
    """The blocks in which TMA reads or writes one of q, k, v and O, whose sizes and strides are given."""

    def __init__(self, sizes: tuple[int, ...], strides: tuple[int, ...], rows: int, columns: int, bits: int) -> None:
        from triton.experimental.gluon.language import NVMMASharedLayout

        self.block = [1, 1, rows, columns]
        self.sizes = list(sizes)
        # A stride that is never used must be legal all the same.
        self.strides = [stride or sizes[3] for stride in strides]
        self.layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=bits, rank=4)
        self.checked: dict[str, Any] | None = None

    def of(self, x: torch.Tensor) -> object:
        """The tensor's descriptor; what Triton checks of it is checked once, since a plan's tensors are alike."""
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        if self.checked is None:
            descriptor = TensorDescriptor(x, self.sizes, self.strides, self.block, self.layout)
            self.checked = {name: value for name, value in vars(descriptor).items() if name != "base"}
            return descriptor
        descriptor = object.__new__(TensorDescriptor)
        vars(descriptor).update(self.checked, base=x)
        return descriptor


def _blocks(problem: Problem, tile: HopperTile) -> tuple[Block, ...]:
    """Those of q, k, v and O; O is contiguous, and its columns are written in two halves where they are many."""
    width, bits = max(64, block_d(problem.d)), 8 * problem.dtype.itemsize
    q_sizes = (problem.B, problem.Hq, problem.Nq, problem.d)
    kv_sizes = (problem.B, problem.Hk, problem.Nk, problem.d)
    o_strides = (problem.Hq * problem.Nq * problem.d, problem.Nq * problem.d, problem.d, 1)
    q, k, v = problem.strides
    return (
        Block(q_sizes, q, ROWS, width, bits),
        Block(kv_sizes, k, tile.BLOCK_N, width, bits),
        Block(kv_sizes, v, tile.BLOCK_N, width, bits),
        Block(q_sizes, o_strides, ROWS, min(width, 128), bits),
    )
