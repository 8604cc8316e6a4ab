"""Autotuned, with heuristics: one function forgets the tail of K in one configuration alone."""

import torch
import triton
import triton.language as tl

from tests.harness.strangers.kernel import grid, one_row, operands

CONFIGS = [
    triton.Config({"BLOCK_N": 16}),
    triton.Config({"BLOCK_N": 32}, num_warps=4),
    triton.Config({"BLOCK_N": 32}, num_warps=8),
    triton.Config({"BLOCK_N": 64}),
]


def no_taller_than_keys(configs, arguments, **named):
    return [config for config in configs if config.kwargs["BLOCK_N"] <= max(arguments["Nk"], 16)]


def tuned(values, configs=CONFIGS):
    heuristics = {"BLOCK_D": lambda arguments: max(16, triton.next_power_of_2(arguments["d"]))} | values
    autotune = triton.autotune(
        configs, key=["Nk", "d"], prune_configs_by={"early_config_prune": no_taller_than_keys}, restore_value=["o"]
    )
    return autotune(triton.heuristics(heuristics)(one_row))


right_kernel = tuned({"FORGETS_TAIL": lambda arguments: False})
faulty_kernel = tuned({"FORGETS_TAIL": lambda arguments: arguments["BLOCK_N"] == 32})


@triton.autotune([triton.Config({"BLOCK": 8}), triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=["n"])
@triton.jit
def small_blocks(out, n: tl.constexpr, BLOCK: tl.constexpr):
    tl.static_assert(n <= BLOCK and 2 * n > BLOCK)
    tl.store(out, BLOCK)


@triton.autotune([triton.Config({"BLOCK": 8}), triton.Config({"BLOCK": 16})], key=[])
@triton.jit
def fails_in_one(out, BLOCK: tl.constexpr):
    if BLOCK == 8:
        tl.store(out, undefined)  # noqa: F821
    else:
        tl.store(out, BLOCK)


def right(q, k, v, scale=None):
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    right_kernel[grid(q)](*operands(q, k, v, o, scale), LEAVES_LANES=False)
    return o


def faulty(q, k, v, scale=None):
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    faulty_kernel[grid(q)](*operands(q, k, v, o, scale), LEAVES_LANES=False)
    return o
