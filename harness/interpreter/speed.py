"""Mends of wasted time. None changes a bit of any result, except `one_blas_thread` as it says."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np

from harness.interpreter import blas
from harness.interpreter.patches import Change, Patches, mend_of, replace_all, restore_all


@mend_of("no overflow check", "speed", ("interpreter_builder.options.sanitize_overflow",))
def no_overflow_check(patches: Patches) -> str | None:
    """Stock repeats each integer +, - and * in int64 for a device_assert that does nothing unless debugging."""
    from triton import knobs

    options = patches.interpreter.interpreter_builder.options
    if options.debug or knobs.runtime.debug:
        return "debugging is on (TRITON_DEBUG)"
    unchecked = dataclasses.replace(options, sanitize_overflow=False)
    patches.set(patches.interpreter.interpreter_builder, "options", unchecked)
    return None


@mend_of("one BLAS thread", "speed", ("GridExecutor.__call__",))
def one_blas_thread(patches: Patches) -> str | None:
    """Stock multiplies 128x128 tiles on all cores, which waits for a scheduler's time slice if another process runs.

    In fp64 the rounding of OpenBLAS depends on the number of threads; one thread gives the same result on any machine.
    """
    threads = blas.find_threads()
    if threads is None:
        return "NumPy's BLAS is not OpenBLAS"

    def call(stock: Any) -> Any:
        def launch(self: Any, *args: Any, **kwargs: Any) -> None:
            with threads.one():
                stock(self, *args, **kwargs)

        return launch

    patches.wrap(patches.interpreter.GridExecutor, "__call__", call)
    return None


@mend_of("dtype table", "speed", ("_get_np_dtype",))
def dtype_table(patches: Patches) -> None:
    """Stock builds a table of 19 dtypes for each lookup."""
    pointer_type, block_type = patches.tl.pointer_type, patches.tl.block_type
    pointer = np.dtype(np.uint64)
    known: dict[Any, Any] = {}

    def get_np_dtype(stock: Any) -> Any:
        def look_up(triton_type: Any) -> Any:
            element = triton_type.element_ty if isinstance(triton_type, block_type) else triton_type
            if isinstance(element, pointer_type):
                return pointer
            if element not in known:
                known[element] = stock(element)
            return known[element]

        return look_up

    patches.wrap(patches.interpreter, "_get_np_dtype", get_np_dtype)


# More pairs of shapes than any kernel has; above it, nothing new is cached.
_MOST_SHAPES = 1000

# The names that a patch for the duration of a launch needs.
_LAUNCH = ("_patch_lang", "_LangPatchScope.restore", "InterpretedFunction.__call__", "GridExecutor")


@mend_of(
    "shapes made once",
    "speed",
    (*_LAUNCH, "tl.core.block_type.to_ir", "tl.core.tensor", "tl.core.constexpr", "tl.core.tuple"),
)
def shapes_made_once(patches: Patches) -> None:
    """Stock checks, names and wraps the shape again for every value; there are few shapes and many values."""
    core = patches.tl.core
    constexpr, triton_tuple = core.constexpr, core.tuple
    stock_block_type, stock_tensor = core.block_type.__init__, core.tensor.__init__
    stock_to_ir = core.block_type.to_ir
    # Known shapes by their sizes, and the facts about each. `by_sizes` keeps them alive, so that an id stays unique.
    by_sizes: dict[tuple[int, ...], Any] = {}
    known: dict[int, tuple[Any, int, str]] = {}
    wrapped: dict[int, tuple[Any, Any]] = {}
    scalar: list[Any] = []

    def look_up(shape: Any) -> tuple[Any, int, str] | None:
        """Return the shape, its number of elements and its text."""
        if id(shape) in known:
            return known[id(shape)]
        if not isinstance(shape, (list, triton_tuple)):
            return None
        sizes = tuple([size.value if type(size) is constexpr else size for size in shape])
        return known[id(by_sizes[sizes])] if sizes in by_sizes and _all_int(sizes) else None

    def init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
        found = look_up(shape)
        if found is not None:
            self.element_ty = element_ty
            self.shape, self.numel, text = found
            self.name = f"<{text}, {element_ty.name}>"
            return
        stock_block_type(self, element_ty, shape)
        sizes = tuple(self.shape.values)
        if sizes not in by_sizes and _all_int(sizes):
            by_sizes[sizes] = self.shape
            known[id(self.shape)] = (self.shape, self.numel, str(self.shape))

    def init_tensor(self: Any, handle: Any, type: Any) -> None:
        shape = type.shape if type.is_block() else scalar
        found = wrapped.get(id(shape))
        if found is None:
            stock_tensor(self, handle, type)
            if shape is scalar or id(shape) in known:
                wrapped[id(shape)] = (self.shape, self.numel)
            return
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = found

    def to_ir(self: Any, builder: Any) -> Any:
        # Stock's copy drops a pointer's `const`; for numbers the copy equals the type.
        return stock_to_ir(self, builder) if self.element_ty.is_ptr() else self

    patches.per_launch += [
        (core.block_type, "__init__", init_block_type),
        (core.block_type, "to_ir", to_ir),
        (core.tensor, "__init__", init_tensor),
    ]


def _all_int(sizes: tuple[Any, ...]) -> bool:
    """Whether equal sizes mean an equal shape: True and 64.0 equal 1 and 64, but stock treats them differently."""
    return all(type(size) is int for size in sizes)


@mend_of(
    "equal types seen at once",
    "speed",
    (
        *_LAUNCH,
        "tl.core.dtype.__eq__",
        "tl.core.tuple.__eq__",
        "TritonSemantic.binary_op_type_checking_impl",
    ),
)
def equal_types(patches: Patches) -> None:
    """Stock compares types by name and shapes by element even if both are one object; here identity comes first."""
    core, semantic = patches.tl.core, patches.interpreter.TritonSemantic
    stock_dtype_eq, stock_tuple_eq = core.dtype.__eq__, core.tuple.__eq__
    stock_check = semantic.binary_op_type_checking_impl
    true, tensor, dtype = core.constexpr(True), core.tensor, core.dtype
    # Two operands of one of these types give that type in any operation; so do one operand and a number in its range.
    integers = [getattr(core, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
    plain = frozenset(map(id, (core.float32, core.float64, core.int1, *integers)))
    ranges = {id(each): (each.get_int_min_value(), each.get_int_max_value()) for each in integers}
    ranges[id(core.float32)] = (-(2**63), 2**64 - 1)

    def dtype_eq(self: Any, other: Any) -> Any:
        if self is other:
            return True
        return self.name == other.name if type(other) is dtype else stock_dtype_eq(self, other)

    def tuple_eq(self: Any, other: Any) -> Any:
        return true if self is other else stock_tuple_eq(self, other)

    def keeps_type(number: Any, element: Any) -> bool:
        if type(number) is float:
            return element is core.float32
        low, high = ranges.get(id(element), (0, -1))
        return type(number) is int and low <= number <= high

    def agree(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any] | None:
        """Return the operands in one type, not yet in one shape; None if the type is not obvious."""
        if type(lhs) is tensor:
            if type(rhs) is tensor:
                return (lhs, rhs) if lhs.dtype is rhs.dtype and id(lhs.dtype) in plain else None
            return (lhs, self.scalar_constant(rhs, lhs.dtype)) if keeps_type(rhs, lhs.dtype) else None
        if type(rhs) is tensor and keeps_type(lhs, rhs.dtype):
            return self.scalar_constant(lhs, rhs.dtype), rhs
        return None

    def check(
        self: Any,
        lhs: Any,
        rhs: Any,
        allow_lhs_ptr: bool = False,
        allow_rhs_ptr: bool = False,
        arithmetic_check: bool = True,
        div_or_mod: bool = False,
    ) -> Any:
        agreed = agree(self, lhs, rhs) if arithmetic_check else None
        if agreed:
            return self.broadcast_impl_value(*agreed)
        return stock_check(self, lhs, rhs, allow_lhs_ptr, allow_rhs_ptr, arithmetic_check, div_or_mod)

    patches.per_launch += [
        (core.dtype, "__eq__", dtype_eq),
        (core.tuple, "__eq__", tuple_eq),
        (semantic, "binary_op_type_checking_impl", check),
    ]


@mend_of("shapes matched once", "speed", (*_LAUNCH, "TritonSemantic.broadcast_impl_value"))
def shapes_matched_once(patches: Patches) -> None:
    """Stock computes the broadcast of each pair of shapes again, dimension by dimension."""
    core, semantic = patches.tl.core, patches.interpreter.TritonSemantic
    stock_broadcast, tensor, block_type = semantic.broadcast_impl_value, core.tensor, core.block_type
    # By the ids of two shapes; the shapes are kept alive, so that their ids stay unique.
    known: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def stretch(self: Any, operand: Any, shape: Any) -> Any:
        stretched = block_type(operand.dtype, shape)
        if not operand.type.is_block():
            return tensor(self.builder.create_splat(stretched, operand.handle), stretched)
        if operand.type.shape is shape:
            return operand
        return tensor(self.builder.create_broadcast(operand.handle, shape.values), stretched)

    def broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
        if lhs.shape is rhs.shape:
            return lhs, rhs
        ends = (id(lhs.shape), id(rhs.shape))
        if ends in known:
            shape = known[ends][2]
            return stretch(self, lhs, shape), stretch(self, rhs, shape)
        left, right = stock_broadcast(self, lhs, rhs)
        if left.type.is_block() and len(known) < _MOST_SHAPES:
            known[ends] = (lhs.shape, rhs.shape, left.type.shape)
        return left, right

    patches.per_launch.append((semantic, "broadcast_impl_value", broadcast))


@mend_of("tensors taken as they are", "speed", (*_LAUNCH, "TritonSemantic.to_tensor", "tl.core._unwrap_if_constexpr"))
def tensors_as_they_are(patches: Patches) -> None:
    """Stock tests each operand and each assigned value for every other type before it recognises a tensor."""
    core, semantic = patches.tl.core, patches.interpreter.TritonSemantic
    stock_to_tensor, stock_unwrap, tensor = semantic.to_tensor, core._unwrap_if_constexpr, core.tensor
    never_wrapped = frozenset((tensor, core.dtype, int, bool, float, str, slice, type(None)))

    def to_tensor(self: Any, x: Any, *how: Any, **named: Any) -> Any:
        return x if type(x) is tensor else stock_to_tensor(self, x, *how, **named)

    def unwrap(x: Any) -> Any:
        return x if type(x) in never_wrapped else stock_unwrap(x)

    patches.per_launch += [(semantic, "to_tensor", to_tensor), (core, "_unwrap_if_constexpr", unwrap)]


class _InnerScope:
    """The scope of a call within a launch: everything is patched already."""

    def restore(self) -> None:
        """Do nothing."""


_INNER_SCOPE = _InnerScope()


class _Launches:
    """Patches `triton.language` for the interpreter from a recipe at a launch's start, and restores it at its end."""

    def __init__(self, patches: Patches, stock: Any) -> None:
        self._patches = patches
        self._stock = stock
        self._recipe: list[Change] = []
        self._originals: list[Change] = []
        self._patched: dict[int, Any] = {}
        self._aliases: list[tuple[dict[str, Any], str, Any]] = []
        self._searched: set[int] = set()

    def patch(self, function: Any) -> Any:
        """Replace `_patch_lang`."""
        scope: Any = _INNER_SCOPE
        if not self._originals:
            self._recipe = self._recipe or self._record()
            self._originals = replace_all(self._recipe)
            self._patched = self._patched or self._find_patched()
            scope = self
        self._patch_aliases(function.__globals__)
        return scope

    def restore(self) -> None:
        """End the launch."""
        restore_all(self._originals)
        while self._aliases:
            names, name, original = self._aliases.pop()
            names[name] = original
        self._searched.clear()

    def _patch_aliases(self, names: dict[str, Any]) -> None:
        """Patch what a module has by names of its own, as by `from triton.language import load`."""
        if id(names) in self._searched:
            return
        self._searched.add(id(names))
        for name, value in names.items():
            if id(value) in self._patched:
                self._aliases.append((names, name, value))
                names[name] = self._patched[id(value)]

    def _find_patched(self) -> dict[int, Any]:
        """The patched functions of `triton.language` by the ids of the original ones."""
        pairs = zip(self._originals, self._recipe, strict=True)
        return {id(was): now for (owner, _, was), (_, _, now) in pairs if isinstance(owner, types.ModuleType)}

    def _record(self) -> list[Change]:
        language = self._patches.tl
        sees_all = types.SimpleNamespace(__globals__={"tl": language, "core": language.core})
        scope = self._stock(sees_all)
        try:
            changed = dict.fromkeys((owner, name) for owner, name, _ in scope._changes)
            recipe = [(owner, name, self._direct(vars(owner)[name])) for owner, name in changed]
        finally:
            scope.restore()
        return recipe + self._patches.per_launch

    def _direct(self, patched: Any) -> Any:
        """Return stock's replacement of a builtin without the two calls between it and the builtin's own code."""
        member = (getattr(patched, "__kwdefaults__", None) or {}).get("member")
        if member is None:
            return patched
        only_asks_for_semantic = self._patches.tl.core.builtin(print).__code__
        if getattr(member, "__code__", None) is only_asks_for_semantic:
            member = member.__wrapped__
        semantic = self._patches.interpreter.interpreter_semantic

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = semantic
            return member(*args, **kwargs)

        return call


@mend_of("patched once a launch", "speed", _LAUNCH)
def patched_once(patches: Patches) -> None:
    """Stock walks every member of four modules at each launch, and again at each call of a @triton.jit helper.

    `tl.max`, `tl.sum`, `tl.zeros` and `tl.cdiv` are such helpers. Stock never undoes what a helper patched: this does.
    Stock knows these functions only as attributes of `tl`; here a module's own names for them work too.
    """
    launches = _Launches(patches, patches.interpreter._patch_lang)

    def call(stock: Any) -> Any:
        def call_helper(self: Any, *args: Any, **kwargs: Any) -> Any:
            scope = launches.patch(self.fn)
            try:
                return stock(self, *args, **kwargs)
            finally:
                scope.restore()

        return call_helper

    patches.set(patches.interpreter, "_patch_lang", launches.patch)
    patches.wrap(patches.interpreter.InterpretedFunction, "__call__", call)
