"""The backward pass: what is needed of it, what is exactly 0, layouts of what only it takes, and what it refuses."""

import dataclasses
import itertools

import pytest
import torch

from kernel import eager, flash_attention
from kernel.call.arguments import Asked
from kernel.call.launch import INTERPRETED
from kernel.eager import flash_attn_backward

from .contract import CAUSAL, PATHS
from .tensors import LAYOUTS, columns_first, cotangents, differentiate, draw, lengths, off_by_one, same, transposed

SMALL_TILE = "16x16x4x1"
NEEDS = [needs for needs in itertools.product((False, True), repeat=3) if any(needs)]


def test_heads_of_keys_without_queries_get_zeros(device):
    q, k, v = (x.requires_grad_() for x in draw(1, 0, 2, 3, 5, 8, device=device))
    dK, dV = torch.autograd.grad(flash_attention(q, k, v), (k, v), torch.empty_like(q))
    assert (dK == 0).all()
    assert (dV == 0).all()


@pytest.mark.skipif(not INTERPRETED, reason="compiled, rows read element by element are summed in another order")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_layout_of_dO_gives_the_bits_of_a_contiguous_one(layout, dtype, device):
    q, k, v = draw(2, 2, 1, 20, 40, 16, dtype, device)
    dO, dLSE = cotangents(q)
    want = differentiate(q, k, v, dO, dLSE, True, config=SMALL_TILE)
    assert same(want, differentiate(q, k, v, layout(dO), dLSE, True, config=SMALL_TILE))


def test_what_a_sum_hands_back_is_a_gradient_of_ones(device):
    q, k, v = (x.requires_grad_() for x in draw(2, 2, 1, 20, 40, 16, torch.bfloat16, device))
    o, lse = flash_attention(q, k, v, True, return_lse=True)
    (o.sum() + lse.sum()).backward()
    ones = torch.ones_like(o), torch.ones_like(lse)
    want = differentiate(q, k, v, *ones, True)
    assert same(want, (q.grad, k.grad, v.grad))


@pytest.mark.skipif(not INTERPRETED, reason="compiled, rows read element by element are summed in another order")
def test_the_saved_output_and_lse_may_have_any_layout(device):
    q, k, v = draw(2, 2, 1, 20, 40, 16, device=device)
    dO, dLSE = cotangents(q)
    o, lse = flash_attention(q, k, v, return_lse=True)
    want = flash_attn_backward(dO, dLSE, Asked(q, k, v), o, lse)
    strided = dLSE.transpose(0, 2).contiguous().transpose(0, 2)
    lse = lse.transpose(0, 2).contiguous().transpose(0, 2)
    for layout in (transposed, columns_first, off_by_one):
        assert same(want, flash_attn_backward(dO, strided, Asked(q, k, v), layout(o), lse))


@pytest.mark.parametrize("strides", [(8, 8, 2**31 + 64, 1), (8, 8, 1, 2**31 + 64)])
def test_strides_of_dO_past_two_to_the_31(strides, device):
    """The memory is only reserved, and only the rows in use are touched."""
    if device.type != "cpu":
        pytest.skip("a lazily committed view needs a CPU")
    q, k, v = draw(1, 1, 1, 2, 2, 2, torch.float16)
    dO, dLSE = cotangents(q)
    far = torch.empty(2**31 + 128, dtype=torch.float16).as_strided(dO.shape, strides).copy_(dO)
    want = differentiate(q, k, v, dO, dLSE, config=SMALL_TILE)
    assert same(want, differentiate(q, k, v, far, dLSE, config=SMALL_TILE))


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("with_lse", [False, True])
def test_only_what_is_needed_is_computed(needs, with_lse, device, monkeypatch):
    q, k, v = draw(1, 2, 1, 20, 40, 16, torch.float16, device)
    dO, dLSE = cotangents(q)
    dLSE = dLSE if with_lse else None
    want = differentiate(q, k, v, dO, dLSE, True)
    asked = []
    real = eager.flash_attn_backward
    monkeypatch.setattr(eager, "flash_attn_backward", lambda *a: asked.append(real(*a)) or asked[-1])
    got = differentiate(q, k, v, dO, dLSE, True, needs=needs)
    assert same([x if need else None for x, need in zip(want, needs, strict=True)], got)
    assert [x is not None for x in asked[0]] == list(needs)


def test_lse_alone_may_be_differentiated(device):
    q, k, v = draw(1, 2, 1, 20, 40, 16, device=device)
    _, dLSE = cotangents(q)
    got = differentiate(q, k, v, None, dLSE, True)
    assert same(got, differentiate(q, k, v, torch.zeros_like(q), dLSE, True))
    assert (got[2] == 0).all()


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_what_nobody_sees_never_matters_and_gets_zeros(causal, poison, device):
    """Keys past the length or the diagonal, and rows that see no key, with all that belongs to them."""
    q, k, v = draw(4, 2, 1, 40, 50, 16, torch.float16, device)
    seqlens = lengths(device, 0, 1, 32, 45)
    dO, dLSE = cotangents(q)
    clean = differentiate(q, k, v, dO, dLSE, causal, seqlens, config=SMALL_TILE)
    for b, n in enumerate(seqlens.tolist()):
        seen = min(n, 40) if causal is True else n
        empty = {False: 0 if n else 40, True: 0 if n else 40, "lower_right": max(0, 40 - n)}[causal]
        for x in (k, v):
            x[b, :, seen:] = poison
        for x in (q, dO, dLSE):
            x[b, :, :empty] = poison
        assert (clean[0][b, :, :empty] == 0).all()
        assert all((x[b, :, seen:] == 0).all() for x in clean[1:])
    assert same(clean, differentiate(q, k, v, dO, dLSE, causal, seqlens, config=SMALL_TILE))


def test_query_tiles_that_see_no_key_of_a_tile_never_matter(device):
    """Rows 0..15 see none of the keys from 16 on, nor do later rows' gradients say anything of earlier keys' bounds."""
    q, k, v = draw(1, 1, 1, 40, 40, 16, device=device)
    dO, dLSE = cotangents(q)
    _, dK, dV = differentiate(q, k, v, dO, dLSE, True, config=SMALL_TILE)
    o, lse = flash_attention(q, k, v, True, return_lse=True, config=SMALL_TILE)
    for x in (q, dO, dLSE):
        x[:, :, :16] = torch.nan
    _, late_dK, late_dV = flash_attn_backward(dO, dLSE, Asked(q, k, v, True, config=SMALL_TILE), o, lse)
    assert torch.equal(dK[:, :, 16:], late_dK[:, :, 16:])
    assert torch.equal(dV[:, :, 16:], late_dV[:, :, 16:])
    assert late_dK[:, :, :16].isnan().all()


def test_twice_is_the_same_and_the_forward_does_not_change(device):
    q, k, v = draw(1, 4, 2, 40, 40, 16, torch.bfloat16, device)
    dO, dLSE = cotangents(q)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    o, lse = flash_attention(*leaves, True, return_lse=True)
    first, second = (torch.autograd.grad((o, lse), leaves, (dO, dLSE), retain_graph=True) for _ in range(2))
    assert same(first, second)
    assert same((o, lse), flash_attention(q, k, v, True, return_lse=True))


def test_an_output_that_was_changed_is_refused(device):
    leaves = [x.requires_grad_() for x in draw(1, 1, 1, 3, 5, 8, device=device)]
    o = flash_attention(*leaves)
    with torch.no_grad():
        o += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()


def test_a_second_derivative_is_refused(device):
    q, k, v = (x.requires_grad_() for x in draw(1, 1, 1, 3, 5, 8, device=device))
    (dQ,) = torch.autograd.grad(flash_attention(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dQ.sum().backward()


@pytest.mark.parametrize("config", ["16x16x4x1/16x32x4x1+32x16x4x1", "16x16x4x1/32x16x4x1+16x32x4x1", "portable"])
def test_tiles_that_differ_between_the_kernels(config):
    for causal in CAUSAL:
        dataclasses.replace(PATHS["portable"], config=config).attest(
            40, 53, 32, "bf16", B=2, Hq=2, causal=causal, seqlens_k=(50, 17)
        )


@pytest.mark.parametrize("missing", ["k", "grad mode"])
def test_without_need_nothing_is_recorded(missing, device):
    q, k, v = draw(1, 1, 1, 3, 5, 8, device=device)
    with torch.set_grad_enabled(missing == "k"):
        o = flash_attention(q.requires_grad_(missing == "grad mode"), k, v)
    assert o.grad_fn is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dO": torch.ones(1, 1, 3, 7)}, ValueError, "dO must have shape (1, 1, 3, 8), got (1, 1, 3, 7)"),
        ({"dO": torch.ones(1, 1, 3, 8).half()}, TypeError, "dO must be float32, got float16"),
        ({"O": torch.ones(1, 1, 3, 8, device="meta")}, ValueError, "O must be on q's device cpu, got meta"),
        ({"LSE": torch.ones(1, 1, 3, 1)}, ValueError, "LSE must have shape (1, 1, 3), got (1, 1, 3, 1)"),
        ({"dLSE": torch.ones(1, 1, 3).double()}, TypeError, "dLSE must be float32, got float64"),
        ({"dO": torch.ones(1, 1, 3, 8).to_sparse()}, ValueError, "dO must be a dense strided tensor"),
    ],
)
def test_a_bad_cotangent_is_refused_in_one_sentence(changes, error, message):
    q, k, v = draw(1, 1, 1, 3, 5, 8)
    tensors = {"dO": torch.ones(1, 1, 3, 8), "O": q, "LSE": torch.ones(1, 1, 3), "dLSE": None} | changes
    with pytest.raises(error) as caught:
        flash_attn_backward(asked=Asked(q, k, v), **tensors)
    assert str(caught.value).startswith(message)
