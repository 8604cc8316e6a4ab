"""The fast paths of the interpreter change no result, for every operator and every kind of operands."""

import collections
import itertools
import operator
import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the interpreter is off: TRITON_INTERPRET=1 turns it on", allow_module_level=True)

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

import harness.interpreter  # noqa: E402
from harness.interpreter import mend, restore, status  # noqa: E402
from harness.interpreter.patches import KNOWN_VERSIONS, MENDS  # noqa: E402

pytestmark = pytest.mark.skipif(
    triton.__version__.rpartition(".")[0] not in KNOWN_VERSIONS, reason="nothing is mended in an unknown version"
)

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = ["int1", *INTEGERS, "float16", "bfloat16", "float32", "float64"]
SHAPES = [(), (4,), (4, 1), (1, 4), (4, 4)]
MIXED_SHAPES = [((), ()), ((), (4,)), ((4, 1), (1, 4)), ((4, 4), ())]
WHOLE_NUMBERS = [0, 1, -1, 3, 200, 2**31, -(2**31), 2**63, 2**64, True]
NUMBERS = [*WHOLE_NUMBERS, 0.0, -0.0, 2.5, -1.0, 1e300, float("inf"), float("nan")]
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "and_", "or_", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
BINARY = {name: getattr(operator, name) for name in (*ARITHMETIC, *COMPARISONS)} | {
    "minimum": lambda x, y: tl.minimum(x, y),
    "maximum": lambda x, y: tl.maximum(x, y),
    "where": lambda x, y: tl.where(x > y, x, y),
}
CASTS = {f"to {dtype}": operator.methodcaller("to", getattr(tl, dtype)) for dtype in DTYPES}
UNARY = CASTS | {
    "neg": operator.neg,
    "invert": operator.invert,
    "expand": lambda x: x[None, :],
    "to_tensor": lambda x: tl.to_tensor(x),
}
OPERATORS = BINARY | UNARY


@dataclass(frozen=True)
class Tensor:
    """What to make a tensor of: extreme values of `dtype`, or pointers to it at small addresses."""

    dtype: str
    shape: tuple[int, ...]
    pointer: bool = False

    def make(self):
        """Make a new tensor: an operation may change the handle it is given."""
        triton_type = getattr(tl, self.dtype)
        triton_type = tl.pointer_type(triton_type) if self.pointer else triton_type
        values = np.arange(4096, 4104, dtype=np.uint64) if self.pointer else extremes(self.dtype)
        handle = interpreter.TensorHandle(np.resize(values, self.shape or (1,)), triton_type)
        return tl.tensor(handle, tl.block_type(triton_type, list(self.shape)) if self.shape else triton_type)


@dataclass(frozen=True)
class Constant:
    """A number as a constexpr."""

    number: float

    def make(self):
        return tl.constexpr(self.number)


CONSTANTS = [Constant(number) for number in (0, 3, -1, 2**31, 2.5, True)]


def extremes(dtype):
    numpy_type = interpreter._get_np_dtype(getattr(tl, dtype))
    if dtype.startswith("float"):
        values = [1.5, -0.0, float("nan"), float("inf"), 65504.0, -3.0, 1e-40, 0.0]
    elif dtype == "bfloat16":
        values = [0x3FC0, 0x8000, 0x7FC0, 0x7F80, 0x0001, 0xC040, 0x3F81, 0x0000]
    elif dtype == "int1":
        values = [True, False]
    else:
        limits = np.iinfo(numpy_type)
        values = [7, 0, limits.max, limits.min, limits.max // 3, 1, 2, limits.max - 1]
    return np.array(values).astype(numpy_type)


def described(name, operands):
    """Describe a result: its types, its shape in Triton and in NumPy, and its bits; or the error."""
    try:
        x = OPERATORS[name](*(each.make() if isinstance(each, Tensor | Constant) else each for each in operands))
    except Exception as error:
        return type(error), str(error)
    if not isinstance(x, tl.tensor):
        return type(x), repr(x)
    sizes = [(type(size), size.value) for size in x.shape]
    types = (x.type, x.type.name, x.dtype, x.handle.dtype)
    assert x.handle.data.shape == (tuple(size for _, size in sizes) or (1,))
    return types, sizes, x.numel.value, x.handle.data.dtype, x.handle.data.tobytes()


def tensors_with_tensors(dtype):
    """Each operator on tensors of `dtype` and of every dtype."""
    for other, name in itertools.product(DTYPES, BINARY):
        for x, y in itertools.product(SHAPES, SHAPES) if other == dtype else MIXED_SHAPES:
            yield name, Tensor(dtype, x), Tensor(other, y)


def tensors_with_numbers(dtype):
    """Each operator on a tensor and a number, on either side."""
    for name, shape, number in itertools.product(BINARY, ((), (4,), (4, 1)), NUMBERS + CONSTANTS):
        yield name, Tensor(dtype, shape), number
        yield name, number, Tensor(dtype, shape)


def pointers(dtype):
    """Pointers with tensors of `dtype`, and with pointers to it."""
    for name, x, y in itertools.product(("add", "sub", "lt", "eq", "where"), SHAPES, SHAPES):
        yield name, Tensor("float32", x, pointer=True), Tensor(dtype, y)
        yield name, Tensor(dtype, x), Tensor(dtype, y, pointer=True)
        yield name, Tensor(dtype, x, pointer=True), Tensor(dtype, y, pointer=True)


def alone(dtype):
    """What takes one tensor."""
    for name, shape in itertools.product(UNARY, SHAPES):
        yield name, Tensor(dtype, shape)


@triton.jit
def in_a_launch(out, call: tl.constexpr):
    call()
    tl.store(out, 1)


def results(computations, mends, monkeypatch):
    """Return what each computation gives in an interpreter with these mends, for every occurrence."""
    found = collections.defaultdict(list)

    def compute_all():
        for name, *operands in computations:
            found[repr((name, operands))].append(described(name, operands))

    with monkeypatch.context() as only, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only.setattr(harness.interpreter, "MENDS", mends)
        mend()
        in_a_launch[(1,)](torch.zeros(1), call=compute_all)
        restore()
    return found


@pytest.fixture(autouse=True)
def _as_found():
    """Start from the stock interpreter and leave what was there."""
    mended = bool(status().applied)
    restore()
    yield
    restore()
    if mended:
        mend()


SLOW = [each for each in MENDS if each.kind == "correctness" or each.name == "no overflow check"]
KINDS = [tensors_with_tensors, tensors_with_numbers, pointers, alone]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_fast_paths_change_no_bit_and_no_type(monkeypatch, kind, dtype):
    expected = results(kind(dtype), SLOW, monkeypatch)
    # The second time, what was remembered the first time is used.
    found = results(itertools.chain(kind(dtype), kind(dtype)), MENDS, monkeypatch)
    different = {name: (expected[name], found[name]) for name in expected if found[name] != 2 * expected[name]}
    assert len(found) == len(expected) > 0
    assert not different, list(different.items())[:3]


@pytest.mark.parametrize("wrong", ["add", "mul"])
def test_a_wrong_type_or_bit_would_be_seen(monkeypatch, wrong):
    computations = [("add", Tensor("int32", ()), Tensor("int32", (4,)))]
    expected = results(computations, SLOW, monkeypatch)
    other = Tensor("int64", (4,)) if wrong == "add" else Tensor("int32", (4,))
    monkeypatch.setitem(OPERATORS, "add", lambda x, _: BINARY[wrong](x, other.make()))
    assert results(computations, SLOW, monkeypatch) != expected
