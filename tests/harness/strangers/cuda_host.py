"""Host code that asks for CUDA at import, in the call, in an operator that is for CUDA alone, and in the backward."""

import torch
import triton
from torch import Tensor

from tests.harness.strangers.kernel import grid, one_row, operands

assert torch.cuda.is_available()
driver = triton.runtime.driver.active
DEVICE = driver.get_active_torch_device()
SHARED = driver.utils.get_device_properties(driver.get_current_device())["max_shared_mem"]
BLOCK_N = 32 if SHARED > 100_000 else 16
HOPPER = driver.get_current_target().arch >= 90 and torch.cuda.get_device_capability()[0] >= 9
PROGRAMS = torch.cuda.get_device_properties(DEVICE).multi_processor_count
TABLE = torch.arange(PROGRAMS, device="cuda").cuda().to(DEVICE)

library = torch.library.Library("flashattest_strangers", "DEF")
library.define("scaled(Tensor q, float scale) -> Tensor")
library.impl("scaled", lambda q, scale: (q * scale).to("cuda:0"), "CUDA")


@torch.library.custom_op("flashattest_strangers::attend", mutates_args=(), device_types="cuda")
def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    assert q.is_cuda
    assert k.device == v.device == torch.device("cuda", torch.cuda.current_device())
    o = torch.empty(q.shape, dtype=q.dtype, device="cuda")
    with torch.cuda.device(q.device.index), torch.cuda.stream(torch.cuda.Stream()):
        one_row[grid(q)](*operands(q, k, v, o), BLOCK_N=BLOCK_N, BLOCK_D=64, FORGETS_TAIL=False, LEAVES_LANES=False)
    torch.cuda.current_stream().synchronize()
    torch.cuda.synchronize(q.device)
    return o


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        assert HOPPER
        assert TABLE.get_device() == 0
        ctx.save_for_backward(q, k, v)
        return attend(torch.ops.flashattest_strangers.scaled(q, 1.0), k, v)

    @staticmethod
    def backward(ctx, dO):
        q, k, v = ctx.saved_tensors
        assert dO.is_cuda
        assert not dO.is_cpu
        q32, k32, v32, dO32 = (t.float() for t in (q, k, v, dO))
        scale = torch.full((), q.shape[-1] ** -0.5, device=dO.device)
        P = (q32 @ k32.mT * scale).softmax(-1)
        dP = dO32 @ v32.mT
        dS = P * (dP - (dP * P).sum(-1, keepdim=True)) * scale
        return (dS @ k32).to(q.dtype), (dS.mT @ q32).to(k.dtype), (P.mT @ dO32).to(v.dtype)


def attention(q, k, v):
    if not q.is_cuda:
        raise ValueError("it takes tensors on CUDA alone")
    return Attention.apply(q, k, v)


def asks_more(q, k, v):
    torch.cuda.memory_snapshot()
    return attention(q, k, v)


attention.__flashattest__ = asks_more.__flashattest__ = {"max_head_dim": 64, "gqa": False}
