"""Runs every path of the kernel, forward and backward, on a few problems each, for compute-sanitizer to watch.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python profile/sanitizer_target.py

Without torch's caching every tensor is an allocation of its own, whose ends the sanitizer knows. Nothing is compared
here, and no output is read: initcheck does not see TMA's stores, and would call what they wrote unwritten.
"""

from __future__ import annotations

import argparse
import itertools

import torch

from kernel import flash_attention

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
RAGGED = (2, 4, 2, 333, 257)
FEW_ROWS = (2, 4, 2, 5, 4133)


def problems(config: str, dtypes: tuple[str, ...], head_dims: tuple[int, ...], box: tuple[int, ...] = RAGGED) -> None:
    """A config's problems: each dtype and head dim, with each mask, with and without lengths."""
    for dtype, d, causal, padded in itertools.product(
        dtypes, head_dims, (False, "upper_left", "lower_right"), (False, True)
    ):
        print(f"{config:9} {dtype} d={d} causal={causal} lengths={padded}", flush=True)
        run_once(config, DTYPES[dtype], d, causal, padded, box)


def run_once(config: str, dtype: torch.dtype, d: int, causal: bool | str, padded: bool, box: tuple[int, ...]) -> None:
    """One forward and backward, with a gradient through LSE, and a wait for both."""
    B, Hq, Hk, Nq, Nk = box
    lengths = torch.tensor([0, Nk - 7], dtype=torch.int32).to("cuda") if padded else None
    q, k, v = (torch.randn(shape).to("cuda", dtype) for shape in ((B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, d)))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    outputs = flash_attention(*leaves, causal, lengths, return_lse=True, config=config)
    torch.autograd.grad(outputs, leaves, (torch.randn(q.shape).to(q), torch.randn(q.shape[:3]).to("cuda")))
    torch.cuda.synchronize()


PATHS = {
    "hopper": lambda: problems("hopper", ("fp16", "bf16"), (64, 80, 128)),
    "hopper256": lambda: problems("hopper", ("bf16",), (256,)),
    "portable": lambda: problems("portable", ("fp16", "bf16", "fp32"), (33, 64, 128)),
    "decode": lambda: problems("decode", ("bf16", "fp32"), (64, 128), FEW_ROWS),
}


def main() -> None:
    """Run the paths that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", choices=(*PATHS, []), help=f"of {', '.join(PATHS)}; default all")
    for name in parser.parse_args().paths or PATHS:
        PATHS[name]()


if __name__ == "__main__":
    main()
