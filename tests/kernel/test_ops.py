"""The forward pass as an operator of torch: what a compiler records, and that eager calls go past it."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from harness.recall.faults.planting import plant
from kernel import flash_attention, functional
from kernel.ops import flash_attention_backward, flash_attention_forward
from kernel.tiles.config import TileConfig

from .tensors import draw

SMALL = "16x16x4x1"


def compiled(function, **options):
    """aot_eager runs all of torch.compile but the code generator, which wants a C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


def attention(q, k, v, causal, lengths):
    o, lse = flash_attention(q * 2, k, v, causal, lengths, 0.3, return_lse=True, config=TileConfig.parse(SMALL))
    return o + 1, lse


@pytest.mark.parametrize("causal", [None, "upper_left", "lower_right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("some_hidden", [False, True])
def test_opcheck(causal, dtype, some_hidden, device):
    q, k, v = draw(2, 4, 2, 17, 33, 16, dtype, device)
    lengths = torch.tensor([5, 33], device=device) if some_hidden else None
    strided = q.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(flash_attention_forward, (strided, k, v, causal, lengths, 0.5, SMALL))


@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False)])
@pytest.mark.parametrize("with_lse", [False, True])
def test_opcheck_of_what_is_differentiated(needs, with_lse, device):
    """`test_aot_dispatch_dynamic` compares the compiled gradients with the eager ones."""
    q, k, v = draw(2, 4, 2, 17, 33, 16, device=device)
    leaves = [x.clone().requires_grad_(need) for x, need in zip((q, k, v), needs, strict=True)]
    lengths = torch.tensor([5, 33], device=device)
    torch.library.opcheck(flash_attention_forward, (*leaves, "lower_right", lengths, 0.5, SMALL))
    o, lse = flash_attention(q, k, v, "lower_right", lengths, 0.5, return_lse=True)
    dLSE = torch.ones_like(lse) if with_lse else None
    arguments = (torch.ones_like(o), dLSE, q, k, v, o, lse, "lower_right", lengths, 0.5, SMALL, list(needs))
    torch.library.opcheck(flash_attention_backward, arguments)


def loss(q, k, v, causal, lengths, with_lse):
    o, lse = flash_attention(q * 2, k, v, causal, lengths, 0.3, return_lse=True, config=SMALL)
    return o.square().sum() + torch.where(lse == -torch.inf, 0.0, lse).sum() * with_lse


@pytest.mark.parametrize("needs", ["qkv", "q", "kv"])
@pytest.mark.parametrize("with_lse", [False, True])
def test_a_compiled_call_has_the_gradients_of_an_eager_one(needs, with_lse, device):
    lengths = torch.tensor([0, 33], device=device)
    some = dict(zip("qkv", draw(2, 4, 2, 17, 33, 16, torch.float16, device), strict=True))
    leaves = [some[name].requires_grad_() for name in needs]
    want, got = (
        torch.autograd.grad(f(*some.values(), "lower_right", lengths, with_lse), leaves) for f in (loss, compiled(loss))
    )
    assert all(torch.equal(x, y) for x, y in zip(want, got, strict=True))


def test_the_operator_itself_is_differentiable(device):
    q, k, v = (x.requires_grad_() for x in draw(1, 2, 1, 3, 5, 8, device=device))
    want = torch.autograd.grad(flash_attention(q, k, v).sum(), (q, k, v))
    got = torch.autograd.grad(flash_attention_forward(q, k, v)[0].sum(), (q, k, v))
    assert all(torch.equal(x, y) for x, y in zip(want, got, strict=True))


@pytest.mark.parametrize("causal", [False, True, "lower_right"])
@pytest.mark.parametrize("some_hidden", [False, True])
def test_a_compiled_call_gives_the_bits_of_an_eager_one(causal, some_hidden, device):
    lengths = torch.tensor([5, 33], device=device) if some_hidden else None
    q, k, v = draw(2, 4, 2, 17, 33, 16, torch.float16, device)
    got, want = (f(q, k, v, causal, lengths) for f in (compiled(attention), attention))
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


def test_one_graph_for_many_lengths(device):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    f = torch.compile(flash_attention, fullgraph=True, backend=counter, dynamic=True)
    for N in (17, 20, 40):
        q, k, v = draw(1, 2, 1, N, N + 3, 16, device=device)
        assert torch.equal(f(q, k, v, True), flash_attention(q, k, v, True))
    assert counter.frame_count == 1


def test_what_is_wrong_is_said_in_a_compiled_call_too(device):
    q, k, v = draw(1, 2, 2, 3, 5, 8, device=device)
    with pytest.raises(ValueError, match="v must have k's shape"):
        compiled(flash_attention)(q, k, v[:, :, :4])


def test_fake_tensors_have_the_shapes_and_strides(device):
    with FakeTensorMode():
        q, k = torch.empty(2, 17, 4, 8, dtype=torch.half).transpose(1, 2), torch.empty(2, 2, 33, 8, dtype=torch.half)
        o, lse = flash_attention(q, k, k, True, return_lse=True)
    assert (o.shape, o.dtype, o.is_contiguous()) == ((2, 4, 17, 8), torch.half, True)
    assert (lse.shape, lse.dtype) == ((2, 4, 17), torch.float32)


def test_a_recorder_of_operators_sees_one(device):
    q, k, v = draw(1, 2, 1, 3, 5, 8, device=device)
    graph = make_fx(lambda q, k, v: flash_attention(q, k, v, True))(q, k, v)
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert flash_attention_forward in called
    assert torch.equal(graph(q, k, v), flash_attention(q, k, v, True))


def test_an_eager_call_goes_past_the_operator(device, monkeypatch):
    monkeypatch.setattr(functional, "flash_attention_forward", None)
    flash_attention(*draw(1, 1, 1, 3, 5, 8, device=device))
    with pytest.raises(TypeError), FakeTensorMode():
        flash_attention(*(torch.empty(1, 1, 3, 8) for _ in range(3)))


def test_a_copy_of_the_package_has_an_operator_of_its_own(device):
    wrong = plant("gqa-modulo", [])
    q, k, v = draw(1, 1, 1, 3, 5, 8, device=device)
    assert torch.equal(compiled(wrong)(q, k, v), flash_attention(q, k, v))
    assert wrong.__globals__["flash_attention_forward"] is not flash_attention_forward
