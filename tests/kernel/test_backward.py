"""The backward pass against float64: semantics, layouts, what is needed, what is exactly 0."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import eager, flash_attention
from kernel.call.arguments import Asked
from kernel.call.launch import INTERPRETED
from kernel.eager import flash_attn_backward
from kernel.portable.bind import is_wide

from .reference import assert_gradients_close, draw
from .test_forward import columns_first, every_other_row, lengths, off_by_one, padded_rows, transposed

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CAUSAL = (False, True, "lower_right")
SMALL_TILE = "16x16x4x1"
NEEDS = [needs for needs in itertools.product((False, True), repeat=3) if any(needs)]


def cotangents(q, seed=7):
    """Normal dO like q and dLSE."""
    generator = torch.Generator().manual_seed(seed)
    dO = torch.randn(q.shape, generator=generator).to(q.dtype).to(q.device)
    return dO, torch.randn(q.shape[:3], generator=generator).to(q.device)


def differentiate(q, k, v, dO, dLSE=None, *arguments, needs=(True, True, True), **options):
    """The gradients that autograd hands back, None for the ones not needed."""
    leaves = [x.detach().requires_grad_(need) for x, need in zip((q, k, v), needs, strict=True)]
    o, lse = flash_attention(*leaves, *arguments, **options, return_lse=True)
    outputs, grads = zip(*((y, dy) for y, dy in ((o, dO), (lse, dLSE)) if dy is not None), strict=True)
    wanted = [x for x in leaves if x.requires_grad]
    got = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))
    return tuple(next(got) if need else None for need in needs)


def check(q, k, v, causal=False, seqlens_k=None, scale=None, config=SMALL_TILE, with_lse=True):
    dO, dLSE = cotangents(q)
    dLSE = dLSE if with_lse else None
    got = differentiate(q, k, v, dO, dLSE, causal, seqlens_k, scale, config=config)
    assert_gradients_close(got, q, k, v, dO, dLSE, causal, seqlens_k, scale)
    return got


def same(some, others):
    return all(x is y is None or torch.equal(x, y) for x, y in zip(some, others, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(("Nq", "Nk"), [(40, 53), (53, 40), (1, 33)])
def test_agrees_with_float64(Nq, Nk, causal, dtype, device):
    check(*draw(1, 2, 1, Nq, Nk, 32, dtype, device), causal)


def test_the_reference_is_what_torch_differentiates():
    """By autograd of torch's own attention in float64, where no row is empty."""
    q, k, v = (x.double().requires_grad_() for x in draw(2, 2, 2, 7, 9, 8))
    dO, _ = cotangents(q)
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    got = [x.contiguous() for x in torch.autograd.grad(o, (q, k, v), dO.double())]
    assert_gradients_close(got, q, k, v, dO, causal=True)


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("Nq", range(4))
@pytest.mark.parametrize("Nk", range(4))
def test_every_small_box(Nq, Nk, causal, device):
    q, k, v = draw(Nk + 1, 1, 1, Nq, Nk, 2, device=device)
    check(q, k, v, causal, lengths(device, *range(Nk + 1)))


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(("Nq", "Nk"), [(15, 33), (16, 32), (17, 31), (33, 17), (40, 16), (48, 48)])
def test_tile_edges(Nq, Nk, causal, device):
    q, k, v = draw(2, 1, 1, Nq, Nk, 8, device=device)
    check(q, k, v, causal, lengths(device, Nk - 1, 16))


@settings(max_examples=12, deadline=None)
@given(
    *(st.integers(1, 2), st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1)]), st.integers(0, 50), st.integers(0, 50)),
    *(st.integers(1, 40), st.sampled_from(DTYPES), st.sampled_from(CAUSAL), st.booleans()),
    *(st.sampled_from(["16x16x4x1", "16x32x4x1", "32x16x4x1", "portable"]), st.integers(0, 2**16)),
)
def test_generated_problems_agree(B, heads, Nq, Nk, d, dtype, causal, padded, config, seed):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q, k, v = draw(B, *heads, Nq, Nk, d, dtype, device, seed)
    seqlens = torch.randint(0, Nk + 1, (B,), generator=torch.Generator().manual_seed(seed)).to(device)
    check(q, k, v, causal, seqlens if padded else None, config=config)


@pytest.mark.parametrize("d", [1, 2, 3, 15, 17, 40, 72, 128, 255, 256])
def test_any_head_dim(d, device):
    check(*draw(1, 1, 1, 5, 20, d, device=device))
    check(*draw(1, 1, 1, 5, 20, d, torch.bfloat16, device), causal=True)


@pytest.mark.parametrize(("Hq", "Hk"), [(1, 1), (2, 1), (6, 2), (6, 3)])
def test_grouped_heads(Hq, Hk, device):
    check(*draw(2, Hq, Hk, 33, 20, 16, device=device), causal=True)


@pytest.mark.parametrize("shape", [(0, 2, 2, 3, 3), (2, 0, 0, 3, 3), (1, 2, 1, 0, 3), (2, 2, 1, 3, 0), (0, 1, 1, 0, 0)])
@pytest.mark.parametrize("config", [None, "autotune"])
def test_nothing_to_do(shape, config, device):
    check(*draw(*shape, 8, device=device), causal=True, config=config)


def test_heads_of_keys_without_queries_get_zeros(device):
    q, k, v = (x.requires_grad_() for x in draw(1, 0, 2, 3, 5, 8, device=device))
    dK, dV = torch.autograd.grad(flash_attention(q, k, v), (k, v), torch.empty_like(q))
    assert (dK == 0).all()
    assert (dV == 0).all()


@pytest.mark.parametrize("scale", [0.0, -0.0, 1, -0.3, 1e-30, 1e-300, 4.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_scale(scale, dtype, device):
    check(*draw(1, 1, 1, 20, 40, 16, dtype, device), True, scale=scale)


@pytest.mark.parametrize("layout", [transposed, columns_first, padded_rows, every_other_row, off_by_one])
@pytest.mark.parametrize("which", ["qkv", "dO"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layouts_equal_contiguous_bit_for_bit(layout, which, dtype, device):
    q, k, v = draw(2, 2, 1, 20, 40, 16, dtype, device)
    dO, dLSE = cotangents(q)
    want = differentiate(q, k, v, dO, dLSE, True, config=SMALL_TILE)
    if which == "dO":
        got = differentiate(q, k, v, layout(dO), dLSE, True, config=SMALL_TILE)
    else:
        got = differentiate(*(layout(x) for x in (q, k, v)), dO, dLSE, True, config=SMALL_TILE)
    if which == "dO" and not INTERPRETED:
        # Compiled, rows that are read element by element are summed up to delta in another order.
        assert_gradients_close(got, q, k, v, dO, dLSE, True)
    else:
        assert same(want, got)


def test_what_a_sum_hands_back_is_a_gradient_of_ones(device):
    q, k, v = (x.requires_grad_() for x in draw(2, 2, 1, 20, 40, 16, torch.bfloat16, device))
    o, lse = flash_attention(q, k, v, True, return_lse=True)
    (o.sum() + lse.sum()).backward()
    ones = torch.ones_like(o), torch.ones_like(lse)
    want = differentiate(q, k, v, *ones, True)
    assert same(want, (q.grad, k.grad, v.grad))


def test_the_saved_output_and_lse_may_have_any_layout(device):
    q, k, v = draw(2, 2, 1, 20, 40, 16, device=device)
    dO, dLSE = cotangents(q)
    o, lse = flash_attention(q, k, v, return_lse=True)
    want = flash_attn_backward(dO, dLSE, Asked(q, k, v), o, lse)
    strided = dLSE.transpose(0, 2).contiguous().transpose(0, 2)
    lse = lse.transpose(0, 2).contiguous().transpose(0, 2)
    for layout in (transposed, columns_first, off_by_one):
        got = flash_attn_backward(dO, strided, Asked(q, k, v), layout(o), lse)
        assert_gradients_close(got, q, k, v, dO, dLSE)
        assert same(want, got) or not INTERPRETED


@pytest.mark.parametrize("far", ["row", "column"])
def test_strides_past_two_to_the_31(far, device):
    """The memory is reserved, and only the rows in use are touched."""
    if device.type != "cpu":
        pytest.skip("a lazily committed view needs a CPU")
    stride = 2**31 + 64
    shape, strides = {"row": ((1, 1, 2, 4), (8, 8, stride, 1)), "column": ((1, 1, 4, 2), (8, 8, 1, stride))}[far]
    room = torch.empty(stride + 64, dtype=torch.float16)
    tensors = (*draw(1, 1, 1, shape[2], shape[2], shape[3], torch.float16), torch.ones(shape, dtype=torch.float16))
    views = [room.as_strided(shape, strides, offset) for offset in (0, 16, 32, 48)]
    for view, x in zip(views, tensors, strict=True):
        view.copy_(x)
    assert is_wide([views[0].stride()], 16)
    assert same(differentiate(*views, config=SMALL_TILE), differentiate(*tensors, config=SMALL_TILE))


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
    dQ, dK, dV = differentiate(q, k, v, None, dLSE, True)
    assert_gradients_close((dQ, dK, dV), q, k, v, torch.zeros_like(q), dLSE, True)
    assert (dV == 0).all()


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


def test_outputs_are_fully_written(device, monkeypatch):
    def poisoned(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(torch.nan)

    q, k, v = draw(2, 2, 1, 20, 40, 5, device=device)
    dO, dLSE = cotangents(q)
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    got = differentiate(q, k, v, dO, dLSE, "lower_right", lengths(device, 0, 3))
    assert not any(x.isnan().any() for x in got)


def test_inputs_are_not_written(device):
    q, k, v = draw(1, 2, 1, 20, 40, 16, torch.bfloat16, device)
    tensors = (q, k, v, *cotangents(q))
    before = [x.clone() for x in tensors]
    differentiate(*tensors, True, scale=-1.0)
    assert same(tensors, before)


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


def test_parts_that_are_merged_by_lse_have_the_gradients_of_the_whole(device):
    q, k, v = (x.requires_grad_() for x in draw(1, 2, 1, 20, 40, 16, device=device))
    dO, _ = cotangents(q)
    parts = [flash_attention(q, k[:, :, i], v[:, :, i], return_lse=True) for i in (slice(0, 17), slice(17, 40))]
    os, lses = (torch.stack(x) for x in zip(*parts, strict=True))
    o = (os * (lses - lses.logsumexp(0)).exp()[..., None]).sum(0)
    got = torch.autograd.grad(o, (q, k, v), dO)
    assert_gradients_close([x.contiguous() for x in got], q, k, v, dO)


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
