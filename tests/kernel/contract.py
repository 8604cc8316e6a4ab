"""The paths of the kernel, as one contract puts each of them to the same cases and the budget judges what they give."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from harness import attest
from harness.subject.loading import DEFAULT, load
from kernel import flash_attention
from kernel.call.launch import INTERPRETED
from kernel.hopper.forward import Hopper, device_refusal
from kernel.portable.decode import MOST_ROWS
from kernel.tiles.config import TileConfig
from strategies import AttentionCase, Features, Geometry, TensorSpec

from .tensors import cotangents

KERNEL = load(DEFAULT)
CAUSAL = (False, True, "lower_right")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PART = 32 if INTERPRETED else 128
"""Keys of a part where the decode path is under test: whole tiles, and small problems have several parts."""


@dataclass(frozen=True)
class Path:
    """A path, and the sizes at which it does something else than at others.

    config: what names it. dtypes, head_dims: what it takes, d: a head dim for tests of something else. boxes: (Nq, Nk)
    small enough to try with every length. edges: (Nq, Nk) around its tiles. differentiable: whether its own backward is
    under test.
    """

    config: str
    dtypes: tuple[str, ...]
    head_dims: tuple[int, ...]
    d: int
    boxes: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int], ...]
    differentiable: bool

    def case(
        self, Nq, Nk, d=None, dtype=None, *, B=1, Hq=1, Hk=1, values=("normal",) * 3, backward=True, **features
    ) -> AttentionCase:
        """A case on this path, with gradients where it has a backward."""
        q, k, v = (TensorSpec(values=family, seed=i) for i, family in enumerate(values))
        geometry = Geometry(B=B, Hq=Hq, Hk=Hk, Nq=Nq, Nk=Nk, d=d or self.d)
        asked = Features(return_lse=True, config=self.config, **features)
        case = AttentionCase(geometry, dtype or self.dtypes[0], asked, q, k, v)
        if not (backward and self.differentiable):
            return case
        return case.replace(operation="forward_backward", dO=TensorSpec(seed=3), dLSE=TensorSpec(seed=4))

    def attest(self, *sizes, **options) -> None:
        """Hold what the path gives on a case against the oracles, by the budget."""
        attest(KERNEL, self.case(*sizes, **options))

    def forward(self, *arguments, **options):
        """O and LSE."""
        return flash_attention(*arguments, **options, return_lse=True, config=self.config)

    def run(self, q, k, v, *arguments, **options):
        """O, LSE, and where the path has a backward dQ, dK and dV."""
        if not self.differentiable:
            return self.forward(q, k, v, *arguments, **options)
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        outputs = self.forward(*leaves, *arguments, **options)
        return *(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, cotangents(q))


PATHS = {
    "portable": Path(
        config="16x16x4x1",
        dtypes=tuple(DTYPES),
        head_dims=(1, 2, 3, 15, 16, 17, 24, 40, 72, 128, 136, 255, 256),
        d=8,
        boxes=tuple((Nq, Nk) for Nq in range(4) for Nk in range(4)),
        edges=((15, 33), (16, 32), (17, 31), (33, 17), (40, 16), (48, 48)),
        differentiable=True,
    ),
    "decode": Path(
        config="decode",
        dtypes=tuple(DTYPES),
        head_dims=(1, 15, 16, 17, 72, 128, 200, 256),
        d=8,
        boxes=tuple((1 + Nk % 5, Nk) for Nk in (0, 1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65)),
        edges=((1, 2 * PART + 13), (7, 2 * PART), (MOST_ROWS, 2 * PART - 1), (1, 32 * 17 + 5), (3, 1100)),
        differentiable=False,
    ),
    "hopper": Path(
        config="hopper",
        dtypes=("fp16", "bf16"),
        head_dims=(40, 64, 80, 128, 256),
        d=64,
        boxes=((1, 1), (64, 128), (129, 3)),
        edges=((257, 321), (333, 77), (130, 1000), (513, 129), (600, 500), (256, 512)),
        differentiable=True,
    ),
}


def use(path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prepare a path for a test, or skip the test where the device does not run the path."""
    if path == "hopper" and (INTERPRETED or device_refusal(torch.device("cuda", torch.cuda.current_device()))):
        pytest.skip(f"needs a device and a Triton that {Hopper.name} takes")
    if path == "decode":
        from kernel.choose import plan_of
        from kernel.portable import decode

        monkeypatch.setattr(decode, "part_of", lambda Nk: PART)
        monkeypatch.setattr(decode, "INTERPRETER_TILE", TileConfig(16, 16, 4, 1))
        plan_of.cache_clear()
    return PATHS[path]
