"""The differentiable blocks against float64 autograd of the definition, without the oracles and their budget."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from harness.recall.faults import CONTROLS
from harness.recall.faults.backward_blocks import Casting, Differentiable

RIGHT = {"blocks": Differentiable, "casting": Casting} | {
    id: control.make for id, control in CONTROLS.items() if id.startswith("backward-") or "differentiable" in id
}
FORMS = {torch.float32: 1e-5, torch.bfloat16: 0.05}


def definition(q, k, v, causal, scale, lengths):
    """O and LSE of each batch entry by itself, over the keys that a row sees; a row that sees none is 0."""
    group, Nq = q.shape[1] // k.shape[1], q.shape[2]
    O, LSE = torch.zeros_like(q), q.new_zeros(q.shape[:3])
    for b, head, i in product(range(q.shape[0]), range(q.shape[1]), range(Nq)):
        shift = lengths[b] - Nq if causal == "lower_right" else 0
        n = max(0, min(lengths[b], i + 1 + shift) if causal else lengths[b])
        if n:
            s = k[b, head // group, :n] @ q[b, head, i] * scale
            O[b, head, i] = s.softmax(0) @ v[b, head // group, :n]
            LSE[b, head, i] = s.logsumexp(0)
    return O, LSE


def tensors(dtype, B=2, Hq=4, Hk=2, Nq=19, Nk=35, d=5):
    draw = torch.Generator().manual_seed(0)
    shapes = [(B, Hq, Nq, d), (B, Hk, Nk, d), (B, Hk, Nk, d), (B, Hq, Nq, d)]
    q, k, v, dO = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    return q, k, v, dO, torch.randn(B, Hq, Nq, generator=draw)


def differentiated(attention, leaves, dO, dLSE, **asked):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(attention(*leaves, **asked), leaves, (dO, dLSE))


@pytest.mark.parametrize("dtype", FORMS)
@pytest.mark.parametrize("causal", [False, True, "lower_right"])
@pytest.mark.parametrize("name", RIGHT)
def test_is_the_definition(name, causal, dtype):
    *qkv, dO, dLSE = tensors(dtype)
    lengths = torch.tensor([35, 9], dtype=torch.int32)
    got = differentiated(RIGHT[name](), qkv, dO, dLSE, causal=causal, scale=-0.3, seqlens_k=lengths, return_lse=True)
    double = [x.double() for x in qkv]
    said = {"causal": causal, "scale": -0.3, "lengths": lengths.tolist()}
    want = differentiated(lambda *x: definition(*x, **said), double, dO.double(), dLSE.double())
    for mine, right in zip(got, want, strict=True):
        assert (mine.dtype, mine.shape) == (dtype, right.shape)
        torch.testing.assert_close(mine.double(), right, rtol=FORMS[dtype], atol=FORMS[dtype])


@pytest.mark.parametrize("needs", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_a_gradient_does_not_hang_on_the_others(needs):
    *qkv, dO, _ = tensors(torch.float32)
    whole = torch.autograd.grad(Differentiable()(*(leaves := [x.requires_grad_() for x in qkv])), leaves, dO)
    some = [x.detach().requires_grad_(n in needs) for n, x in enumerate(qkv)]
    found = torch.autograd.grad(Differentiable()(*some), [some[n] for n in needs], dO)
    assert all(torch.equal(mine, whole[n]) for mine, n in zip(found, needs, strict=True))


def test_padding_may_hold_anything():
    q, k, v, dO, _ = tensors(torch.float32)
    lengths = torch.tensor([35, 9], dtype=torch.int32)

    def gradients(fill):
        leaves = [q, k.clone(), v.clone()]
        for x in leaves[1:]:
            x[1, :, 9:] = fill
        leaves = [x.requires_grad_() for x in leaves]
        return torch.autograd.grad(Differentiable()(*leaves, seqlens_k=lengths), leaves, dO)

    assert all(map(torch.equal, gradients(float("nan")), gradients(0.0)))
