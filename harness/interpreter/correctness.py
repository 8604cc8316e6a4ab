"""Mends of wrong results. Each docstring says what the stock interpreter does; right versions are not listed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.interpreter import bfloat16
from harness.interpreter.patches import Patches, mend_of

_Array = np.ndarray[Any, Any]


@mend_of("bf16 conversions", "correctness", ("_convert_float", "_ir.ROUNDING_MODE.RTZ", "InterpreterBuilder.cast_impl"))
def bf16_conversions(patches: Patches) -> None:
    """Stock truncates fp32 to bf16, mangles subnormals, and takes integers and fp64 as the bits of a bf16."""
    interpreter, tl = patches.interpreter, patches.tl
    toward_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def convert_float(stock: Any) -> Any:
        def convert(data: _Array, source: Any, target: Any, rounding: Any) -> Any:
            if source == tl.bfloat16 and target == tl.float32:
                return bfloat16.widen(data)
            if source == tl.float32 and target == tl.bfloat16:
                return bfloat16.truncate(data) if rounding == toward_zero else bfloat16.narrow(data)
            return stock(data, source, target, rounding)

        return convert

    def cast_impl(stock: Any) -> Any:
        def cast(self: Any, source: Any, target: Any) -> Any:
            ends = (source.dtype.scalar, target.scalar)
            if tl.bfloat16 in ends and tl.float32 not in ends:
                source = stock(self, source, tl.float32)
            return stock(self, source, target)

        return cast

    patches.wrap(interpreter, "_convert_float", convert_float)
    patches.wrap(interpreter.InterpreterBuilder, "cast_impl", cast_impl)


@mend_of("bf16 scalars", "correctness", ("InterpreterBuilder.get_fp32",), versions=("3.6", "3.7", "3.8"))
def bf16_scalars(patches: Patches) -> None:
    """Stock cannot make a bf16 constant other than 0: `tl.full(shape, 1, tl.bfloat16)` raises AttributeError."""
    handle, tl = patches.interpreter.TensorHandle, patches.tl

    def get_bf16(self: Any, value: float) -> Any:
        return handle(bfloat16.narrow(np.array([value], dtype=np.float32)), tl.bfloat16)

    patches.set(patches.interpreter.InterpreterBuilder, "get_bf16", get_bf16)


_ELEMENTWISE = ("binary_op", "unary_op", "create_clampf", "create_fma", "create_rsqrt")


@mend_of("bf16 arithmetic", "correctness", tuple(f"InterpreterBuilder.{name}" for name in _ELEMENTWISE))
def bf16_arithmetic(patches: Patches) -> None:
    """Stock computes with the bits of bf16 operands as if they were integers; here in fp32, rounded once."""
    builder = patches.interpreter.InterpreterBuilder
    for name in _ELEMENTWISE:
        patches.wrap(builder, name, lambda stock: _in_fp32(stock, patches))


def _in_fp32(stock: Any, patches: Patches) -> Any:
    handle, tl = patches.interpreter.TensorHandle, patches.tl

    def is_bf16(operand: Any) -> bool:
        # The result of a comparison carries its operands' type but holds booleans.
        return isinstance(operand, handle) and operand.dtype == tl.bfloat16 and operand.data.dtype == np.uint16

    def compute(self: Any, *operands: Any) -> Any:
        if not any(map(is_bf16, operands)):
            return stock(self, *operands)
        fp32 = (handle(bfloat16.widen(x.data), tl.float32) if is_bf16(x) else x for x in operands)
        result = stock(self, *fp32).data
        return handle(bfloat16.narrow(result) if result.dtype == np.float32 else result, tl.bfloat16)

    return compute


_REDUCTIONS = (("ReduceOps", "sum"), ("ReduceOps", "min_max"), ("ScanOps", "cumsum"), ("ScanOps", "cumprod"))


@mend_of("bf16 reductions", "correctness", tuple(f"{owner}.{name}" for owner, name in _REDUCTIONS))
def bf16_reductions(patches: Patches) -> None:
    """Stock sums and scans the bits of bf16 as integers; here in fp32, rounded once."""
    for owner, name in _REDUCTIONS:
        patches.wrap(getattr(patches.interpreter, owner), name, lambda stock: _reduced_in_fp32(stock, patches))


def _reduced_in_fp32(stock: Any, patches: Patches) -> Any:
    tl, semantic = patches.tl, patches.interpreter.interpreter_semantic

    def reduce(self: Any, values: Any, *how: Any, **named: Any) -> Any:
        values = values[0] if isinstance(values, tuple) else values
        if values.dtype != tl.bfloat16:
            return stock(self, values, *how, **named)
        result = stock(self, semantic.cast(values, tl.float32), *how, **named)
        if not isinstance(result, (tuple, list)):
            return semantic.cast(result, tl.bfloat16)
        return [semantic.cast(x, tl.bfloat16) if x.dtype == tl.float32 else x for x in result]

    return reduce


@mend_of("bf16 dot", "correctness", ("InterpreterBuilder.create_dot",))
def bf16_dot(patches: Patches) -> None:
    """Stock multiplies the bits of bf16 operands as if they were integers; products are exact in fp32."""
    handle, tl = patches.interpreter.TensorHandle, patches.tl

    def as_fp32(operand: Any) -> Any:
        return handle(bfloat16.widen(operand.data), tl.float32) if operand.dtype == tl.bfloat16 else operand

    def create_dot(stock: Any) -> Any:
        def dot(self: Any, a: Any, b: Any, accumulator: Any, *how: Any) -> Any:
            result = stock(self, as_fp32(a), as_fp32(b), as_fp32(accumulator), *how)
            if accumulator.dtype != tl.bfloat16:
                return result
            return handle(bfloat16.narrow(result.data), tl.bfloat16)

        return dot

    patches.wrap(patches.interpreter.InterpreterBuilder, "create_dot", create_dot)


@mend_of(
    "NaN in maximum and minimum",
    "correctness",
    ("InterpreterBuilder.create_maxnumf", "InterpreterBuilder.create_minnumf", "InterpreterBuilder.create_clampf"),
    versions=("3.6", "3.7"),
)
def nan_in_maximum(patches: Patches) -> None:
    """Stock returns NaN if one operand is NaN; without `propagate_nan` a GPU returns the other operand.

    https://triton-lang.org/main/python-api/generated/triton.language.maximum.html
    """
    builder, no_nan = patches.interpreter.InterpreterBuilder, patches.interpreter._ir.PROPAGATE_NAN.NONE

    def create_clampf(stock: Any) -> Any:
        def clamp(self: Any, x: Any, low: Any, high: Any, propagate_nan: Any) -> Any:
            if propagate_nan != no_nan:
                return stock(self, x, low, high, propagate_nan)
            return self.binary_op(self.binary_op(x, low, np.fmax), high, np.fmin)

        return clamp

    patches.set(builder, "create_maxnumf", lambda self, a, b: self.binary_op(a, b, np.fmax))
    patches.set(builder, "create_minnumf", lambda self, a, b: self.binary_op(a, b, np.fmin))
    patches.wrap(builder, "create_clampf", create_clampf)


@mend_of("scalar index", "correctness", ("_patch_lang_tensor",), versions=("3.6",))
def scalar_index(patches: Patches) -> None:
    """Stock calls `int` on an array of one element for a loop's bound: a TypeError since NumPy 2.4."""

    def patch_lang_tensor(stock: Any) -> Any:
        def patch(tensor: Any, scope: Any) -> None:
            stock(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: operator.index(self.handle.data.item()))

        return patch

    patches.wrap(patches.interpreter, "_patch_lang_tensor", patch_lang_tensor)


@mend_of("bool arguments", "correctness", ("_implicit_cvt",), versions=("3.6", "3.7"))
def bool_arguments(patches: Patches) -> None:
    """Stock raises ValueError for a bool that is not a constexpr."""
    _convert_arguments(patches, bool, np.bool_, patches.tl.int1)


@mend_of("float arguments", "correctness", ("_implicit_cvt",))
def float_arguments(patches: Patches) -> None:
    """Stock passes a Python number, which keeps `fp16 * argument` in fp16; compiled, the argument is an fp32 scalar."""
    _convert_arguments(patches, float, np.float32, patches.tl.float32)


def _convert_arguments(patches: Patches, python_type: type, numpy_type: Any, triton_type: Any) -> None:
    handle, tl = patches.interpreter.TensorHandle, patches.tl

    def implicit_cvt(stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def convert(argument: Any) -> Any:
            if not isinstance(argument, python_type):
                return stock(argument)
            return tl.tensor(handle(np.array([argument], dtype=numpy_type), triton_type), triton_type)

        return convert

    patches.wrap(patches.interpreter, "_implicit_cvt", implicit_cvt)


@mend_of("floating-point warnings", "correctness", ("GridExecutor.__call__", "ReduceOps.min_max"))
def floating_point_warnings(patches: Patches) -> None:
    """Stock lets NumPy warn of overflow and NaN, which `-W error` turns into a failure; a GPU gives no warning."""
    quiet = {np.nanmax: np.fmax.reduce, np.nanmin: np.fmin.reduce}

    def call(stock: Any) -> Any:
        def launch(self: Any, *args: Any, **kwargs: Any) -> None:
            with np.errstate(all="ignore"):
                stock(self, *args, **kwargs)

        return launch

    def min_max(stock: Any) -> Any:
        def reduce(self: Any, values: Any, val_reduce_op: Any, idx_reduce_op: Any = None) -> Any:
            return stock(self, values, quiet.get(val_reduce_op, val_reduce_op), idx_reduce_op)

        return reduce

    patches.wrap(patches.interpreter.GridExecutor, "__call__", call)
    patches.wrap(patches.interpreter.ReduceOps, "min_max", min_max)
