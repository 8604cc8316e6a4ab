"""Our forward against torch's FlashAttention-2 backend, bf16, 16,384 tokens and hidden size 2,048 in every row.

    python benchmark/compare_fa2.py [--d 64 128 256] [--N 1024 4096] [--configs 128x64x8x3 128x128x8x2]

Needs a CUDA device. Both are timed in turns in one process; causal counts half the FLOPs, 4·B·H·N²·d.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from triton.testing import do_bench

from kernel import flash_attention

TOKENS, HIDDEN = 16384, 2048
TURNS = 3


def main() -> None:
    asked = _arguments()
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, bf16, TFLOP/s, median of {TURNS} turns")
    print("    d     N  causal   FA2" + "".join(f"  {config or 'default':>12}" for config in asked.configs))
    for d in asked.d:
        for N in asked.N:
            for causal in (False, True):
                rates = _row(d, N, causal, asked.configs)
                shown = "".join(f"  {rate:5.0f} ({rate / rates[0]:.2f}x)" for rate in rates[1:])
                print(f"{d:5} {N:5}  {'yes' if causal else 'no':6} {rates[0]:5.0f}{shown}", flush=True)


def _row(d: int, N: int, causal: bool, configs: list[str | None]) -> list[float]:
    q, k, v = (torch.randn(TOKENS // N, HIDDEN // d, N, d, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    flops = 4 * TOKENS * HIDDEN * N * (0.5 if causal else 1.0)
    calls = [lambda: _fa2(q, k, v, causal)]
    calls += [lambda config=config: flash_attention(q, k, v, causal=causal, config=config) for config in configs]
    turns = [[_milliseconds(call) for call in calls] for _ in range(TURNS)]
    return [flops / statistics.median(times) * 1e-9 for times in zip(*turns, strict=True)]


def _milliseconds(call: Callable[[], torch.Tensor]) -> float:
    """Median time of a call; nan where the configuration does not fit the device."""
    try:
        return do_bench(call, warmup=20, rep=60, return_mode="median")
    except NotImplementedError:
        return math.nan


def _fa2(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--N", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--configs", nargs="*", default=[], help="tiles to time beside the default one")
    asked = parser.parse_args()
    asked.configs = [None, *asked.configs]
    return asked


if __name__ == "__main__":
    main()
