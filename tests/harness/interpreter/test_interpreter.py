"""The mended interpreter is right where stock is wrong, gives stock's bits elsewhere, and can be restored."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET=1 turns it on", allow_module_level=True)

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.language import static_range as own_range  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from harness.interpreter import blas, mend, restore, status, stock  # noqa: E402
from harness.interpreter.masked_lanes import watched_lanes  # noqa: E402
from harness.interpreter.patches import KNOWN_VERSIONS  # noqa: E402

known_version = pytest.mark.skipif(
    triton.__version__.rpartition(".")[0] not in KNOWN_VERSIONS, reason="nothing is mended in an unknown version"
)

# 3.6 calls `int` on an array of one element, which NumPy 2.4 refuses.
stock_refuses_bounds = triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0"

NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def _as_found(monkeypatch):
    """Start from the stock interpreter and leave what was there."""
    mended = bool(status().applied)
    restore()
    yield
    restore()
    monkeypatch.undo()  # or else what a test put there would be mended
    if mended:
        mend()


def result(kernel, out, *args, grid=(1,), **meta):
    """Return what `kernel` writes to its first argument, or the exception it raises."""
    out = out.clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kernel[grid](out, *args, **meta)
    except Exception as error:
        return error
    return out


def same(a, b):
    """Whether both are equal bit for bit, whatever the payload of a NaN; an exception equals nothing."""
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return False
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    nan = torch.isnan(a) & torch.isnan(b)
    return a.dtype == b.dtype and bool(((a.view(integer) == b.view(integer)) | nan).all())


def check_mend(name, expected, kernel, *args, **meta):
    """Assert that mended gives `expected`, and stock does exactly in versions that need no such mend."""
    before = result(kernel, torch.zeros_like(expected), *args, **meta)
    needed = name in mend().applied
    after = result(kernel, torch.zeros_like(expected), *args, **meta)
    assert same(after, expected), (name, after, expected)
    assert same(before, expected) != needed, (name, before, expected)


# What stock gets wrong


own_load, own_exp2 = tl.load, tl.math.exp2


@triton.jit
def own_names(out, x, n: tl.constexpr):
    i = tl.arange(0, n)
    for _ in own_range(1):
        tl.store(out + i, own_exp2(own_load(x + i)))


@known_version
def test_a_module_may_have_names_of_its_own_for_functions_of_tl():
    mend()
    names = dict(globals())
    x = torch.tensor([0.0, 1.0, -1.0, 3.0])
    assert same(result(own_names, torch.zeros(4), x, n=4), torch.exp2(x))
    assert {name: globals()[name] for name in names} == names


@triton.jit
def masked_load(out, x, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(x + i, mask=i < 2))


@triton.jit
def masked_block(out, x, n: tl.constexpr):
    block = tl.make_block_ptr(x, (2,), (1,), (0,), (n,), (0,))
    tl.store(out + tl.arange(0, n), tl.load(block, boundary_check=(0,)))


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2, torch.float8_e4m3fn)


@known_version
@pytest.mark.parametrize("kernel", [masked_load, masked_block], ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.int8, torch.int32, torch.int64, torch.bool], ids=str)
def test_a_masked_lane_without_other_is_undefined(kernel, dtype):
    x = torch.ones(4).to(dtype)
    with stock():
        assert result(kernel, x, x, n=4).float().tolist() == [1, 1, 0, 0]
    mend()
    found = result(kernel, torch.zeros(4).to(dtype), x, n=4)
    assert found[:2].float().tolist() == [1, 1]
    undefined = found[2:].float()
    assert undefined.isnan().all() if dtype.is_floating_point else (found[2:].to(torch.int64) % 2 == 1).all()
    with watched_lanes(hold_zero=True) as lanes:
        assert result(kernel, torch.zeros(4).to(dtype), x, n=4)[2:].float().tolist() == [0, 0]
    assert lanes.were_read


@triton.autotune([triton.Config({"n": 2}), triton.Config({"n": 4})], key=["x"])
@triton.jit
def tuned(out, x, n: tl.constexpr):
    tl.store(out + tl.arange(0, n), x)


@known_version
def test_an_autotuned_kernel_runs_with_its_first_configuration():
    assert isinstance(result(tuned, torch.zeros(4), 3.0), Exception)
    mend()
    assert result(tuned, torch.zeros(4), 3.0).tolist() == [3, 3, 0, 0]


@triton.jit
def convert(out, x, n: tl.constexpr, rounding: tl.constexpr = None):
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(x + i).to(out.dtype.element_ty, fp_downcast_rounding=rounding))


def fp32_bits():
    bits = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    special = [
        0x3F808000,
        0x3F818000,
        0x3F808001,
        0x7F7FFFFF,
        0x7F800001,
        0xFFFFFFFF,
        0x7F800000,
        0x80000000,
        1,
        0x8000,
    ]
    bits[: len(special)] = special
    return torch.from_numpy(bits.view(np.float32))


@known_version
def test_fp32_to_bf16_rounds_to_nearest_even():
    x = fp32_bits()
    check_mend("bf16 conversions", x.to(torch.bfloat16), convert, x, n=4096)


@known_version
def test_fp32_to_bf16_truncates_where_the_kernel_asks_for_it():
    x = torch.tensor([1.00390625, -1.0117187, 3e38, 1e-40])
    mend()
    expected = (x.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    assert same(result(convert, torch.zeros(4, dtype=torch.bfloat16), x, n=4, rounding="rtz"), expected)


@known_version
def test_every_bf16_widens_to_its_value():
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    check_mend("bf16 conversions", x.float(), convert, x, n=2**16)


@known_version
@pytest.mark.parametrize("dtype", [torch.int32, torch.float64])
def test_integers_and_fp64_become_bf16(dtype):
    x = torch.tensor([0, 1, -3, 1025], dtype=dtype)
    check_mend("bf16 conversions", x.to(torch.bfloat16), convert, x, n=4)


@triton.jit
def fill(out, n: tl.constexpr):
    tl.store(out + tl.arange(0, n), tl.full((n,), 1.5, tl.bfloat16))


@known_version
def test_bf16_constants():
    check_mend("bf16 scalars", torch.full((8,), 1.5, dtype=torch.bfloat16), fill, n=8)


@triton.jit
def bf16_expression(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.where(a < b, a * b - a, tl.maximum(a, b) + b))


@known_version
def test_bf16_arithmetic_rounds_each_step_once():
    x = torch.linspace(-3, 5, 64).to(torch.bfloat16)
    y = torch.linspace(2, -1, 64).to(torch.bfloat16)
    expected = torch.where(x < y, x * y - x, torch.maximum(x, y) + y)
    check_mend("bf16 arithmetic", expected, bf16_expression, x, y, n=64)


@triton.jit
def reduce_bf16(out, x, n: tl.constexpr):
    i = tl.arange(0, n)
    a = tl.load(x + i)
    tl.store(out + i, tl.cumsum(a, 0) + tl.sum(a, 0))


@known_version
def test_bf16_sums_and_scans():
    x = torch.tensor([1.0, -2.0, 4.0, 0.5]).to(torch.bfloat16)
    check_mend("bf16 reductions", torch.cumsum(x, 0) + x.sum(), reduce_bf16, x, n=4)


@triton.jit
def dot(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    at = i[:, None] * n + i[None, :]
    c = tl.dot(tl.load(x + at), tl.trans(tl.load(y + at)), input_precision="ieee")
    tl.store(out + at, c.to(out.dtype.element_ty))


@known_version
def test_bf16_dot_multiplies_values():
    x = torch.arange(-128, 128).reshape(16, 16).to(torch.bfloat16)
    y = torch.eye(16).add(torch.eye(16).roll(1, 0)).to(torch.bfloat16)
    check_mend("bf16 dot", x.float() @ y.float().T, dot, x, y, n=16)


@triton.jit
def extremes(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.maximum(a, b))
    tl.store(out + n + i, tl.minimum(a, b))
    tl.store(out + 2 * n + i, tl.clamp(a, -1.0, 1.0))
    tl.store(out + 3 * n + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))


@known_version
def test_maximum_and_minimum_return_the_operand_that_is_not_nan():
    x, y = torch.tensor([NAN, 2.0, NAN, INF]), torch.tensor([1.0, NAN, NAN, -INF])
    expected = [1.0, 2.0, NAN, INF], [1.0, 2.0, NAN, -INF], [-1.0, 1.0, -1.0, 1.0], [NAN, NAN, NAN, INF]
    check_mend("NaN in maximum and minimum", torch.tensor(expected).flatten(), extremes, x, y, n=4)


@triton.jit
def count(out, n):
    for i in range(0, n):
        tl.atomic_add(out + i, i + 1)


@known_version
def test_a_loop_runs_to_a_bound_that_is_an_argument():
    expected = torch.tensor([1, 2, 3, 0], dtype=torch.int32)
    before = result(count, torch.zeros_like(expected), 3)
    assert same(before, expected) != stock_refuses_bounds, before
    mend()
    assert same(result(count, torch.zeros_like(expected), 3), expected)


@triton.jit
def choose(out, flag):
    if flag:
        tl.store(out, 1)


@known_version
def test_bool_arguments():
    check_mend("bool arguments", torch.tensor([1]), choose, True)
    assert same(result(choose, torch.tensor([0]), False), torch.tensor([0]))


@triton.jit
def scale_by(out, x, scale, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(out + i, tl.load(x + i) * scale)


@known_version
def test_a_float_argument_is_an_fp32_scalar_as_when_compiled():
    x = torch.tensor([1.0, 3.0, 1000.0, 60000.0], dtype=torch.float16)
    check_mend("float arguments", x.float() * torch.tensor(1.1), scale_by, x, 1.1, n=4)


@triton.jit
def row_max(out, x, n: tl.constexpr):
    a = tl.load(x + tl.arange(0, n))
    tl.store(out, tl.max(a, 0))
    tl.store(out + 1, tl.sum(a * 1e30, 0))


@known_version
def test_overflow_and_nan_are_silent():
    out = torch.zeros(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(interpreter.InterpreterError, match="Warning"):
            row_max[(1,)](out, torch.full((4,), 1e30), n=4)
        mend()
        row_max[(1,)](out, torch.full((4,), 1e30), n=4)
        assert out.tolist() == [pytest.approx(1e30), INF]
        row_max[(1,)](out, torch.full((4,), NAN), n=4)
        assert out.isnan().all()


# What stock gets right


@triton.jit
def elementwise(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    a, b = tl.load(x + i), tl.load(y + i)
    c = tl.abs(a) * 3 + b / 7 - (-a)
    tl.store(out + i, tl.where((a < b) & (c != 0), c, b).to(out.dtype.element_ty))


@triton.jit
def transcendental(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    a, b = tl.load(x + i).to(tl.float32), tl.load(y + i).to(tl.float32)
    c = tl.exp2(a) + tl.log2(tl.abs(b)) + tl.exp(b) * tl.sqrt(tl.abs(a)) + tl.fma(a, b, a)
    tl.store(out + i, c.to(out.dtype.element_ty))


@triton.jit
def integers(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    large = i * 123456789 + tl.program_id(0)
    mixed = (large // 7 + large % 5 - (large << 2)) ^ (large >> 3)
    tl.store(out + i, (mixed + i.to(tl.int64) * 2**33 // 3).to(out.dtype.element_ty))


@triton.jit
def reductions(out, x, y, n: tl.constexpr):
    i, j = tl.arange(0, n // 8), tl.arange(0, 8)
    a = tl.load(x + i[:, None] * 8 + j[None, :])
    row = tl.max(a, 1) - tl.min(a, 1) + tl.sum(a, 1) + tl.argmax(a, 1)
    column = tl.sum(a, 0) + tl.cumsum(tl.max(a, 0), 0)
    tl.store(out + i[:, None] * 8 + j[None, :], (row[:, None] * column + tl.max(a)).to(out.dtype.element_ty))


@triton.jit
def masked(out, x, y, n: tl.constexpr):
    i, j = tl.arange(0, n // 8), tl.arange(0, 8)
    at, inside = i[:, None] * 8 + j[None, :], (i[:, None] < n // 8 - 1) & (j < 5)
    a = tl.load(x + at, mask=inside, other=-1.0) + tl.load(y + at, mask=j[None, :] > 2)
    tl.store(out + at, tl.where(inside, a, 0.5).to(out.dtype.element_ty), mask=j[None, :] != 3)


@triton.jit
def dots(out, x, y, n: tl.constexpr):
    i, j = tl.arange(0, 16), tl.arange(0, n // 16)
    acc = tl.zeros((16, 16), tl.float32)
    for step in range(0, 3):
        a, b = tl.load(x + i[:, None] * (n // 16) + j), tl.load(y + j[:, None] * 16 + i)
        acc = tl.dot(a, b, acc * 0.5 + step, input_precision="ieee")
    tl.store(out + i[:, None] * 16 + i, tl.trans(acc).to(out.dtype.element_ty))


@triton.jit
def atomics(out, x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.atomic_add(out + i // 2, tl.load(x + i).to(out.dtype.element_ty), mask=i < n - 3)
    tl.atomic_max(out + i, tl.load(y + i).to(out.dtype.element_ty))


@triton.jit
def pointers(out, x, y, n: tl.constexpr):
    at = x + tl.arange(0, n // 8)[:, None] * 8 + tl.arange(0, 8)
    for step in tl.range(0, 2):
        value = tl.load(at) * (step + 1)
        at += 8 * (1 - step)
    shaped = tl.reshape(value, (n,)) + tl.expand_dims(tl.load(y), 0)
    tl.store(out + tl.arange(0, n), shaped.to(out.dtype.element_ty), mask=tl.arange(0, n) < tl.cdiv(n, 2))


@triton.jit
def larger_magnitude(a, b):
    return tl.where(tl.abs(a) > tl.abs(b), a, b)


@triton.jit
def descriptors(out, x, y, n: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [n // 16, 16], [16, 1], [8, 8])
    target = tl.make_tensor_descriptor(out, [n // 16, 16], [16, 1], [8, 8])
    for step in tl.static_range(3):
        a = source.load([step * 12, 8])
        largest = tl.reduce(a.to(tl.float32), 1, larger_magnitude)
        target.store([step * 8, 8 * (step % 2)], (a + largest[:, None]).to(out.dtype.element_ty))


KERNELS = [elementwise, transcendental, integers, reductions, masked, dots, atomics, pointers, descriptors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_mended_gives_the_bits_of_stock(kernel, dtype):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(1024, generator=generator).to(dtype) for _ in range(2))
    x[5], y[9], y[11] = 0.0, -0.0, INF
    out = torch.zeros(
        1024, dtype=torch.int64 if kernel is integers else dtype if kernel is not atomics else torch.float32
    )
    expected = result(kernel, out, x, y, n=512, grid=(2,))
    mend()
    with watched_lanes(hold_zero=True):  # as in stock
        assert same(result(kernel, out, x, y, n=512, grid=(2,)), expected)
    assert not same(expected, out), "the kernel wrote nothing"


@triton.jit
def softmax_step(s, m, l):
    m_new = tl.maximum(m, tl.max(s, 1))
    p = tl.exp2(s - m_new[:, None])
    alpha = tl.exp2(m - m_new)
    return p, m_new, l * alpha + tl.sum(p, 1), alpha


@triton.jit
def attention(O, Q, K, V, strides, N, scale, d: tl.constexpr, tile: tl.constexpr):
    rows, columns, width = tl.program_id(0) * tile + tl.arange(0, tile), tl.arange(0, tile), tl.arange(0, d)
    q = tl.load(Q + rows[:, None] * strides[0] + width, mask=rows[:, None] < N, other=0.0)
    m, l = tl.full((tile,), -1e30, tl.float32), tl.zeros((tile,), tl.float32)
    acc = tl.zeros((tile, d), tl.float32)
    for start in range(0, tl.minimum(N, (tl.program_id(0) + 1) * tile), tile):
        at = start + columns
        k = tl.load(K + at[None, :] * strides[1] + width[:, None], mask=at[None, :] < N, other=0.0)
        s = tl.dot(q, k, input_precision="ieee") * scale
        s = tl.where((at[None, :] < N) & (at[None, :] <= rows[:, None]), s, float("-inf"))
        p, m, l, alpha = softmax_step(s, m, l)
        v = tl.load(V + at[:, None] * strides[2] + width[None, :], mask=at[:, None] < N, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * alpha[:, None], input_precision="ieee")
    tl.store(O + rows[:, None] * d + width, (acc / l[:, None]).to(O.dtype.element_ty), mask=rows[:, None] < N)


def attend(dtype, N=70, d=16, tile=32):
    generator = torch.Generator().manual_seed(2)
    padded = torch.randn(N, 3, d, generator=generator).to(dtype)
    q, k, v = padded.unbind(1)
    out = torch.zeros(N, d, dtype=dtype)
    strides, scale = tuple(t.stride(0) for t in (q, k, v)), d**-0.5 * 1.4426950408889634
    O = result(attention, out, q, k, v, strides, N, scale, d=d, tile=tile, grid=(triton.cdiv(N, tile),))
    truth = torch.nn.functional.scaled_dot_product_attention(*(t.double()[None] for t in (q, k, v)), is_causal=True)
    return O, truth[0], v.abs().max().item()


@pytest.mark.skipif(stock_refuses_bounds, reason="stock cannot loop to an argument")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_has_the_bits_of_stock(dtype):
    expected, truth, largest = attend(dtype)
    mend()
    assert same(attend(dtype)[0], expected)
    assert (expected - truth).abs().max() <= largest * 2**-9


@known_version
def test_attention_in_bf16_is_right():
    mend()
    O, truth, largest = attend(torch.bfloat16)
    # P and O are rounded to bf16, each by at most 2^-9 of a mean of V's rows.
    assert (O - truth).abs().max() <= largest * 2**-7


# BLAS threads


@pytest.fixture
def two_threads():
    """NumPy's BLAS on two threads."""
    threads = blas.find_threads()
    if threads is None:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    before = threads.get()
    threads.set(2)
    yield threads
    threads.set(before)


@known_version
@pytest.mark.parametrize(("mended", "expected"), [(True, 1), (False, 2)])
def test_a_mended_launch_multiplies_on_one_thread(monkeypatch, two_threads, mended, expected):
    seen = []
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: seen.append(two_threads.get()))
    if mended:
        mend()
    fill[(1,)](torch.zeros(4), n=4)
    assert (seen, two_threads.get()) == ([expected], 2)


@known_version
def test_threads_are_given_back_where_a_launch_fails(two_threads):
    mend()
    assert isinstance(result(fails, torch.zeros(4), n=4), Exception)
    assert two_threads.get() == 2


@known_version
def test_another_blas_keeps_its_threads(monkeypatch):
    monkeypatch.setattr(blas, "find_threads", lambda: None)
    assert ("one BLAS thread", "NumPy's BLAS is not OpenBLAS") in mend().skipped


# On and off again


TOUCHED = (
    interpreter,
    interpreter.InterpreterBuilder,
    interpreter.interpreter_builder,
    interpreter.GridExecutor,
    interpreter.InterpretedFunction,
    interpreter.ReduceOps,
    interpreter.ScanOps,
    interpreter.TritonSemantic,
    tl,
    tl.core,
    tl.math,
    tl.tensor,
    tl.block_type,
    tl.dtype,
    tl.core.tuple,
)


def attributes():
    """Every attribute that a mend or a launch may replace."""
    return [dict(vars(owner)) for owner in TOUCHED]


@known_version
def test_mend_twice_is_mend_once_and_restore_puts_all_back():
    before = attributes()
    first = mend()
    mended = attributes()
    assert mended != before
    assert mend() is first
    assert attributes() == mended
    assert status() == first
    restore()
    assert attributes() == before
    assert not status().applied


@known_version
def test_stock_is_stock_inside_and_mended_after():
    with stock():
        assert not status().applied
    assert not status().applied
    mend()
    with stock():
        assert not status().applied
    assert status().applied


@triton.jit
def fails(out, n: tl.constexpr):
    tl.store(out, tl.sum(tl.zeros((n,), tl.float32), 0) + undefined)  # noqa: F821


@known_version
@pytest.mark.parametrize("kernel", [fill, fails], ids=lambda kernel: kernel.__name__)
def test_a_launch_leaves_triton_language_as_it_was(kernel):
    mend()
    out = torch.zeros(4, dtype=torch.bfloat16)
    result(kernel, out, n=4)  # the first launch adds its globals
    before = attributes()
    assert isinstance(result(kernel, out, n=4), Exception) == (kernel is fails)
    assert attributes() == before


@known_version
def test_a_helper_called_outside_a_launch():
    mend()
    before = attributes()
    assert tl.cdiv(7, 2) == 4
    assert attributes() == before


@pytest.mark.parametrize("version", ["9.9.0", "3.6.0+git1a2b3c", "3.10.0"])
def test_an_unknown_version_stays_stock(monkeypatch, version):
    monkeypatch.setattr(triton, "__version__", version)
    before = attributes()
    report = mend()
    assert (report.known, report.applied) == (False, ())
    assert str(report).startswith(f"triton {version}, stock interpreter: mends are known for 3.6")
    assert attributes() == before


@known_version
def test_a_mend_whose_target_is_gone_is_skipped(monkeypatch):
    monkeypatch.delattr(interpreter, "_get_np_dtype")
    report = mend()
    why = "_get_np_dtype is missing"
    assert report.skipped == (("masked lanes undefined", why), ("dtype table", why))
    assert "dtype table (_get_np_dtype is missing)" in str(report)
    restore()


@known_version
def test_debugging_keeps_the_overflow_check(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "debug", True)
    assert ("no overflow check", "debugging is on (TRITON_DEBUG)") in mend().skipped


def test_without_triton_it_says_so():
    code = "import sys; sys.modules['triton'] = None; from harness import interpreter as i; print(i.mend(), i.status())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.count("triton not installed, stock interpreter") == 2
