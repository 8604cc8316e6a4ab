"""The forward pass against float64: semantics, numerics, layouts."""

import pytest
import torch

from kernel import flash_attention
from kernel.portable.bind import is_fast, is_wide

from .reference import assert_close, draw

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CAUSAL = (False, True, "lower_right")
SMALL_TILE = "16x16x4x1"


def check(q, k, v, causal=False, seqlens_k=None, scale=None, config=None):
    o, lse = flash_attention(q, k, v, causal, seqlens_k, scale, return_lse=True, config=config)
    assert_close(o, lse, q, k, v, causal, seqlens_k, scale)
    return o, lse


def lengths(device, *values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(("Nq", "Nk"), [(70, 90), (90, 70), (1, 65)])
def test_agrees_with_float64(Nq, Nk, causal, dtype, device):
    check(*draw(1, 2, 1, Nq, Nk, 32, dtype, device), causal)


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("Nq", range(4))
@pytest.mark.parametrize("Nk", range(4))
def test_every_small_box(Nq, Nk, causal, device):
    q, k, v = draw(Nk + 1, 1, 1, Nq, Nk, 2, device=device)
    check(q, k, v, causal, lengths(device, *range(Nk + 1)), config=SMALL_TILE)


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(("Nq", "Nk"), [(15, 33), (16, 32), (17, 31), (33, 17), (40, 16)])
def test_tile_edges(Nq, Nk, causal, device):
    q, k, v = draw(2, 1, 1, Nq, Nk, 8, device=device)
    check(q, k, v, causal, config=SMALL_TILE)
    check(q, k, v, causal, lengths(device, Nk - 1, 16), config=SMALL_TILE)


@pytest.mark.parametrize("d", [1, 2, 3, 15, 16, 17, 24, 40, 72, 128, 136, 255, 256])
def test_any_head_dim(d, device):
    check(*draw(1, 1, 1, 5, 20, d, device=device))
    check(*draw(1, 1, 1, 5, 20, d, torch.bfloat16, device))


@pytest.mark.parametrize(("Hq", "Hk"), [(1, 1), (2, 1), (6, 2), (6, 3)])
def test_grouped_heads(Hq, Hk, device):
    check(*draw(2, Hq, Hk, 3, 20, 16, device=device), causal=True)


@pytest.mark.parametrize("shape", [(0, 2, 2, 3, 3), (2, 0, 0, 3, 3), (1, 2, 1, 0, 3), (2, 2, 1, 3, 0), (0, 1, 1, 0, 0)])
def test_nothing_to_do(shape, device):
    check(*draw(*shape, 8, device=device), causal=True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lengths_of_either_dtype_and_any_stride(dtype, device):
    q, k, v = draw(3, 1, 1, 4, 40, 8, device=device)
    seqlens = lengths(device, 0, 9, 40, 9, 17, 9, dtype=dtype)[::2]
    check(q, k, v, "lower_right", seqlens)
    check(q, k, v, False, lengths(device, 17, dtype=dtype).expand(3))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("causal", CAUSAL)
def test_keys_past_the_length_never_matter(causal, poison, device):
    q, k, v = draw(4, 1, 1, 40, 50, 16, torch.float16, device)
    seqlens = lengths(device, 0, 1, 32, 45)
    clean = flash_attention(q, k, v, causal, seqlens, return_lse=True, config=SMALL_TILE)
    for b, n in enumerate(seqlens.tolist()):
        k[b, :, n:] = poison
        v[b, :, n:] = poison
    dirty = flash_attention(q, k, v, causal, seqlens, return_lse=True, config=SMALL_TILE)
    assert all(torch.equal(x, y) for x, y in zip(clean, dirty, strict=True))


def test_keys_no_row_of_the_tile_sees_never_matter(device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, device=device)
    clean = flash_attention(q, k, v, True, config=SMALL_TILE)
    k[:, :, 20:] = torch.nan
    v[:, :, 20:] = torch.nan
    assert torch.equal(clean, flash_attention(q, k, v, True, config=SMALL_TILE))


@pytest.mark.parametrize("scale", [0.0, -0.0, 1, -1.0, -0.05, 1e-30, 1e-300, 4.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_scale(scale, dtype, device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, dtype, device)
    check(q, k, v, True, scale=scale, config=SMALL_TILE)


def test_scale_zero_is_the_mean_of_the_visible_values(device):
    q, k, v = draw(1, 1, 1, 3, 40, 4, device=device)
    o = flash_attention(q * 1e30, k, v, seqlens_k=lengths(device, 37), scale=0.0)
    mean = v[:, :, :37].double().mean(2, keepdim=True).float()
    torch.testing.assert_close(o, mean.expand_as(o), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_negative_scale_is_a_negative_query(dtype, device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, dtype, device)
    assert torch.equal(flash_attention(q, k, v, True, scale=-0.3), flash_attention(-q, k, v, True, scale=0.3))


@pytest.mark.parametrize("level", [-3e4, 3e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_30000_and_all_negative(level, dtype, device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, dtype, device)
    q[..., 0], k[..., 0] = 128.0, level / 128.0
    check(q, k, v, True, scale=1.0, config=SMALL_TILE)
    check(q, k, v, False, lengths(device, 37), scale=1.0, config=SMALL_TILE)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_rising_or_falling_over_the_keys(order, dtype, device):
    """A running max that lags would overflow P in fp16; one that forgets would overflow everything."""
    q, k, v = draw(1, 1, 1, 3, 80, 4, dtype, device)
    q[:] = 0
    q[..., 0] = 8.0
    k[..., 0] = (torch.arange(80, device=device) * order).to(dtype)
    check(q, k, v, scale=1.0, config=SMALL_TILE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_one_give_one(dtype, device):
    q, k, v = draw(1, 1, 1, 40, 50, 16, dtype, device)
    o = flash_attention(q, k, torch.ones_like(v), True, config=SMALL_TILE)
    u = torch.finfo(dtype).eps
    torch.testing.assert_close(o.double(), torch.ones_like(o).double(), rtol=0, atol=2 * u)


def test_bf16_denormals_are_exact(device):
    """One key: O is that key's value, whatever it is."""
    v = torch.arange(1, 129, dtype=torch.int16, device=device).view(torch.bfloat16)[None, None, None]
    q = torch.ones_like(v)
    assert torch.equal(flash_attention(q, q, v), v)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_configurations_agree(dtype, device):
    q, k, v = draw(1, 2, 1, 70, 90, 16, dtype, device)
    for config in flash_attention.__flashattest__["configs"]:
        for causal in CAUSAL:
            check(q, k, v, causal, lengths(device, 77), config=config)


def test_autotune_agrees(device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, torch.float16, device)
    check(q, k, v, True, config="autotune")


def transposed(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def columns_first(x):
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def padded_rows(x):
    room = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
    room[..., : x.shape[-1]] = x
    return room[..., : x.shape[-1]]


def every_other_row(x):
    room = x.new_full((*x.shape[:2], 2 * x.shape[2], x.shape[3]), torch.nan)
    room[:, :, ::2] = x
    return room[:, :, ::2]


def off_by_one(x):
    room = x.new_full((x.numel() + 1,), torch.nan)
    room[1:] = x.flatten()
    return room[1:].view(x.shape)


@pytest.mark.parametrize("layout", [transposed, columns_first, padded_rows, every_other_row, off_by_one])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layouts_equal_contiguous_bit_for_bit(layout, dtype, device):
    tensors = draw(2, 2, 1, 20, 40, 16, dtype, device)
    want = flash_attention(*tensors, True, return_lse=True, config=SMALL_TILE)
    got = flash_attention(*(layout(x) for x in tensors), True, return_lse=True, config=SMALL_TILE)
    assert all(torch.equal(x, y) for x, y in zip(want, got, strict=True))


@pytest.mark.parametrize("dim", range(4))
def test_expanded_tensors_equal_copies_bit_for_bit(dim, device):
    tensors = [x.narrow(dim, 0, 1).expand_as(x) for x in draw(2, 2, 2, 20, 20, 16, device=device)]
    want = flash_attention(*(x.contiguous() for x in tensors), config=SMALL_TILE)
    assert torch.equal(flash_attention(*tensors, config=SMALL_TILE), want)


@pytest.mark.parametrize("far", ["batch", "row", "column"])
def test_strides_past_two_to_the_31(far, device):
    """The memory is reserved, and only the rows in use are touched."""
    if device.type != "cpu":
        pytest.skip("a lazily committed view needs a CPU")
    stride = 2**31 + 64
    shape, strides = {
        "batch": ((2, 1, 2, 4), (stride, 8, 4, 1)),
        "row": ((1, 1, 2, 4), (8, 8, stride, 1)),
        "column": ((1, 1, 4, 2), (8, 8, 1, stride)),
    }[far]
    room = torch.empty(stride + 64, dtype=torch.float16)
    tensors = draw(shape[0], 1, 1, *shape[2:3] * 2, shape[3], torch.float16)
    views = [room.as_strided(shape, strides, offset) for offset in (0, 16, 32)]
    for view, x in zip(views, tensors, strict=True):
        view.copy_(x)
    assert is_wide([views[0].stride()], 16) == (far != "batch")
    assert torch.equal(flash_attention(*views, config=SMALL_TILE), flash_attention(*tensors, config=SMALL_TILE))


def test_a_size_one_dimension_may_have_any_stride(device):
    q, k, v = draw(1, 1, 1, 1, 1, 16, torch.float16, device)
    odd = [x.as_strided(x.shape, (2**40, 2**40 + 1, 7, 1)) for x in (q, k, v)]
    assert torch.equal(flash_attention(*odd), flash_attention(q, k, v))


def test_the_fast_path_needs_aligned_rows():
    def fast(d=64, aligned=True, strides=(512, 256, 64, 1)):
        return is_fast(torch.float16, d, (True, aligned), ((512, 256, 64, 1), strides))

    assert fast()
    assert not fast(aligned=False)
    assert not fast(strides=(512, 256, 68, 1))
    assert not fast(strides=(512, 256, 64, 2))
    assert not fast(d=60)


def test_inputs_are_not_written(device):
    tensors = draw(1, 2, 1, 20, 40, 16, torch.bfloat16, device)
    before = [x.clone() for x in tensors]
    flash_attention(*tensors, True, scale=-1.0)
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


def test_outputs_are_fully_written(device, monkeypatch):
    def poisoned(allocate):
        return lambda *args, **kwargs: allocate(*args, **kwargs).fill_(torch.nan)

    q, k, v = draw(2, 2, 1, 20, 40, 5, device=device)
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    o, lse = flash_attention(q, k, v, "lower_right", lengths(device, 0, 3), return_lse=True)
    assert not o.isnan().any()
    assert not lse.isnan().any()


def test_twice_is_the_same_and_not_aliased(device):
    q, k, v = draw(1, 1, 1, 20, 40, 16, device=device)
    first, second = flash_attention(q, k, v), flash_attention(q, k, v)
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_true_means_upper_left(device):
    q, k, v = draw(1, 1, 1, 3, 5, 4, device=device)
    assert torch.equal(flash_attention(q, k, v, True), flash_attention(q, k, v, "upper_left"))


def test_without_grad_mode_a_leaf_is_fine(device):
    q, k, v = draw(1, 1, 1, 3, 5, 4, device=device)
    with torch.no_grad():
        assert torch.equal(flash_attention(q.clone().requires_grad_(), k, v), flash_attention(q, k, v))
