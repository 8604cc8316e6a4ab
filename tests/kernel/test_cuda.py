"""What only a device can show of the portable path: compiled kernels, launches, graphs, and a grid past 65,535."""

import dataclasses

import pytest
import torch

from kernel import flash_attention
from kernel.call import launch
from kernel.call.launch import INTERPRETED
from kernel.choose import plan_of

from .contract import CAUSAL, PATHS
from .tensors import cotangents, differentiate, draw, same

pytestmark = pytest.mark.cuda
HALF = ("fp16", "bf16")


def attest(config, *sizes, **options):
    dataclasses.replace(PATHS["portable"], config=config).attest(*sizes, **options)


def test_the_kernel_is_compiled_here():
    assert not INTERPRETED


@pytest.mark.parametrize("dtype", PATHS["portable"].dtypes)
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [16, 40, 64, 100, 128, 200, 256])
def test_the_shipped_tiles(d, causal, dtype):
    attest("portable", 257, 321, d, dtype, B=3, Hq=4, Hk=2, causal=causal, seqlens_k=(0, 129, 321))
    attest("portable", 321, 257, d, dtype, Hq=2, causal=causal, scale=-0.2)


@pytest.mark.parametrize(
    ("config", "dtypes"),
    [
        *(("16x16x4x1", ("fp32", *HALF)), ("32x64x4x2", ("fp32", *HALF)), ("64x32x4x2", HALF), ("64x64x4x3", HALF)),
        ("autotune", ("fp32", *HALF)),
    ],
)
def test_other_tiles(config, dtypes):
    for dtype in dtypes:
        attest(config, 300, 500, 64, dtype, B=2, Hq=4, Hk=2, causal=True)


def test_more_heads_than_a_grid_axis_has_blocks():
    """Each batch entry gives what it gives in a batch of fewer."""
    q, k, v = draw(70_000, 1, 1, 2, 3, 16, torch.float16, "cuda")
    dO, dLSE = cotangents(q)
    tensors = (q, k, v, dO, dLSE)
    want = [differentiate(*half, True) for half in zip(*(x.chunk(2) for x in tensors), strict=True)]
    assert same(differentiate(*tensors, True), [torch.cat(x) for x in zip(*want, strict=True)])
    halves = [flash_attention(*x, True) for x in zip(*(x.chunk(2) for x in (q, k, v)), strict=True)]
    assert torch.equal(flash_attention(q, k, v, True), torch.cat(halves))


def test_a_length_out_of_range_is_clamped():
    q, k, v = draw(2, 1, 1, 5, 40, 16, torch.float16, "cuda")
    wild, clamped = (torch.tensor(x, device="cuda") for x in ([-7, 2**40], [0, 40]))
    assert torch.equal(flash_attention(q, k, v, seqlens_k=wild), flash_attention(q, k, v, seqlens_k=clamped))


@pytest.mark.parametrize("causal", [False, True])
def test_a_hundred_runs_are_the_same(causal):
    q, k, v = draw(2, 4, 2, 300, 500, 128, torch.bfloat16, "cuda")
    first = flash_attention(q, k, v, causal)
    assert all(torch.equal(first, flash_attention(q, k, v, causal)) for _ in range(100))


@pytest.mark.parametrize("causal", [False, True])
def test_a_graph_replays_on_changed_inputs(causal):
    q, k, v = draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda")
    lengths = torch.tensor([300, 17], device="cuda", dtype=torch.int32)
    flash_attention(q, k, v, causal, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o, lse = flash_attention(q, k, v, causal, lengths, return_lse=True)
    for seed, n in ((1, 290), (2, 0)):
        for x, new in zip((q, k, v), draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda", seed), strict=True):
            x.copy_(new)
        lengths[0] = n
        graph.replay()
        want = flash_attention(q, k, v, causal, lengths, return_lse=True)
        assert torch.equal(o, want[0])
        assert torch.equal(lse, want[1])


def test_launches_past_triton_give_what_launches_through_it_give(monkeypatch):
    q, k, v = draw(2, 4, 2, 200, 300, 64, torch.float16, "cuda")
    past = [flash_attention(q, k, v, True) for _ in range(3)]
    monkeypatch.setattr(launch, "DIRECT", False)
    plan_of.cache_clear()
    through = [flash_attention(q, k, v, True) for _ in range(2)]
    assert all(torch.equal(past[0], x) for x in (*past, *through))


def test_a_stream_of_ones_own():
    q, k, v = draw(2, 4, 2, 2000, 2000, 64, torch.float16, "cuda")
    want = flash_attention(q, k, v, True)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late = q * 1
        got = flash_attention(late, k, v, True)
    stream.synchronize()
    assert torch.equal(got, want)


def test_a_compiled_call_gives_the_bits_of_an_eager_one():
    q, k, v = draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda")
    for mode in ("default", "reduce-overhead"):
        torch._dynamo.reset()
        compiled = torch.compile(lambda q: flash_attention(q * 2, k, v, True) + 1, fullgraph=True, mode=mode)
        for _ in range(3):
            assert torch.equal(compiled(q), flash_attention(q * 2, k, v, True) + 1)


@pytest.mark.parametrize("causal", [False, True])
def test_a_hundred_backward_runs_are_the_same(causal):
    q, k, v = draw(2, 4, 2, 300, 500, 128, torch.bfloat16, "cuda")
    dO, dLSE = cotangents(q)
    first = differentiate(q, k, v, dO, dLSE, causal)
    assert all(same(first, differentiate(q, k, v, dO, dLSE, causal)) for _ in range(100))


def test_gradients_of_strides_past_two_to_the_31():
    stride = 2**31 + 64
    room = torch.empty(stride + 4096, dtype=torch.float16, device="cuda")
    q, k, v = draw(1, 1, 1, 2, 2, 64, torch.float16, "cuda")
    tensors = (q, k, v, cotangents(q)[0])
    views = [room.as_strided((1, 1, 2, 64), (8, 8, stride, 1), offset) for offset in (0, 512, 1024, 2048)]
    for view, x in zip(views, tensors, strict=True):
        view.copy_(x)
    assert same(differentiate(*views), differentiate(*tensors))


def test_a_graph_replays_the_backward_on_changed_inputs():
    q, k, v = (x.requires_grad_() for x in draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda"))
    lengths = torch.tensor([300, 17], device="cuda", dtype=torch.int32)
    dO, dLSE = cotangents(q)

    def run():
        o, lse = flash_attention(q, k, v, "lower_right", lengths, return_lse=True)
        return torch.autograd.grad((o, lse), (q, k, v), (dO, dLSE))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    for seed, n in ((1, 290), (2, 0)):
        with torch.no_grad():
            for x, new in zip((q, k, v), draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda", seed), strict=True):
                x.copy_(new)
        lengths[0] = n
        graph.replay()
        assert same(got, run())


def test_compiled_gradients_are_those_of_eager_calls():
    q, k, v = (x.requires_grad_() for x in draw(2, 4, 2, 200, 300, 64, torch.bfloat16, "cuda"))
    torch._dynamo.reset()
    compiled = torch.compile(lambda q: flash_attention(q * 2, k, v, True).float().square().sum(), fullgraph=True)
    want = torch.autograd.grad(flash_attention(q * 2, k, v, True).float().square().sum(), (q, k, v))
    for x, y in zip(torch.autograd.grad(compiled(q), (q, k, v)), want, strict=True):
        torch.testing.assert_close(x, y, rtol=2**-6, atol=2**-6)
