"""Runs every path of the kernel, forward and backward, on a few problems each, for compute-sanitizer to watch.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python profile/sanitizer_target.py
    ... --tool racecheck python profile/sanitizer_target.py portable --dtypes fp32 --head-dims 64   # a piece of it

Without torch's caching every tensor is an allocation of its own, whose ends the sanitizer knows. Nothing is compared
here, and no output is read: initcheck does not see TMA's stores, and would call what they wrote unwritten.
"""

from __future__ import annotations

import argparse
import itertools
from typing import NamedTuple

import torch

from kernel import flash_attention

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
RAGGED = (2, 4, 2, 333, 257)
FEW_ROWS = (2, 4, 2, 5, 4133)


class Path(NamedTuple):
    """A config and its problems: each dtype and head dim, with each mask, with and without lengths."""

    config: str
    dtypes: tuple[str, ...]
    head_dims: tuple[int, ...]
    box: tuple[int, ...] = RAGGED

    def run(self, dtypes: list[str], head_dims: list[int]) -> None:
        """Those of the dtypes and head dims that are named."""
        for dtype, d, causal, padded in itertools.product(
            self.dtypes, self.head_dims, (False, "upper_left", "lower_right"), (False, True)
        ):
            if dtype in dtypes and d in head_dims:
                print(f"{self.config:9} {dtype} d={d} causal={causal} lengths={padded}", flush=True)
                run_once(self.config, DTYPES[dtype], d, causal, padded, self.box)


PATHS = {
    "hopper": Path("hopper", ("fp16", "bf16"), (64, 80, 128)),
    "hopper256": Path("hopper", ("bf16",), (256,)),
    "portable": Path("portable", ("fp16", "bf16", "fp32"), (33, 64, 128)),
    "decode": Path("decode", ("bf16", "fp32"), (64, 128), FEW_ROWS),
}
HEAD_DIMS = sorted({d for path in PATHS.values() for d in path.head_dims})


def run_once(config: str, dtype: torch.dtype, d: int, causal: bool | str, padded: bool, box: tuple[int, ...]) -> None:
    """One forward and backward, with a gradient through LSE, and a wait for both."""
    B, Hq, Hk, Nq, Nk = box
    lengths = torch.tensor([0, Nk - 7], dtype=torch.int32).to("cuda") if padded else None
    q, k, v = (torch.randn(shape).to("cuda", dtype) for shape in ((B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, d)))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    outputs = flash_attention(*leaves, causal, lengths, return_lse=True, config=config)
    torch.autograd.grad(outputs, leaves, (torch.randn(q.shape).to(q), torch.randn(q.shape[:3]).to("cuda")))
    torch.cuda.synchronize()


def main() -> None:
    """Run the paths that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", choices=(*PATHS, []), help=f"of {', '.join(PATHS)}; default all")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="these alone")
    parser.add_argument("--head-dims", nargs="+", type=int, choices=HEAD_DIMS, default=HEAD_DIMS, help="these alone")
    chosen = parser.parse_args()
    for name in chosen.paths or PATHS:
        PATHS[name].run(chosen.dtypes, chosen.head_dims)


if __name__ == "__main__":
    main()
