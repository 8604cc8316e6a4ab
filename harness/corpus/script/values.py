"""A tensor's values as code: as literals, as packed bytes, or by the code of their value family."""

from __future__ import annotations

import ast
import base64
import inspect
import re
import zlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from harness.errors import CannotRun
from strategies import TensorSpec, values

LITERAL_ELEMENTS = 64
PACKED_BYTES = 4096
"""A larger tensor is generated if it has a value family."""
MOST_BYTES = 1 << 18
"""A larger tensor is never packed, to keep a script readable."""
_LINE = 100


def literal(tensor: Tensor) -> str | None:
    """Return an expression with these values as literals if they are few or all equal, else None."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype)
    if tensor.numel() == 0:
        return f"torch.zeros({shape}, dtype={dtype})"
    flat = tensor.flatten().double()
    if tensor.numel() > 1 and bool((flat == flat[0]).all()):
        return f"torch.full({shape}, {flat[0].item()!r}, dtype={dtype})"
    if tensor.numel() > LITERAL_ELEMENTS:
        return None
    listed = _wrap(", ".join(repr(number) for number in flat.tolist()), ", ")
    return f"torch.tensor([{listed}], dtype={dtype}).reshape({shape})"


def pack(tensor: Tensor) -> str:
    """Return an expression that unpacks these values. Raises CannotRun for more than a script can hold."""
    dense = tensor.contiguous()
    raw = bytes(dense.flatten().view(torch.uint8).numpy()) if dense.numel() else b""
    if len(raw) > MOST_BYTES:
        raise CannotRun(f"A script holds tensors of at most {MOST_BYTES} bytes, and this failure takes {len(raw)}.")
    text = base64.b64encode(zlib.compress(raw, 9)).decode()
    lines = [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
    joined = "\n".join(f'    "{line}"' for line in lines)
    return f"from_bytes(\n{joined},\n    {tensor.dtype},\n    {tuple(tensor.shape)},\n)"


def is_small(tensor: Tensor) -> bool:
    """Whether a tensor is packed rather than generated."""
    return tensor.numel() * tensor.element_size() <= PACKED_BYTES


def generate(spec: TensorSpec, role: str, shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """Return an expression that generates a value family's numbers, (B, H, N, d), by the code of `generator`."""
    drawn = f"{spec.values}(Stream.of({spec.seed}, {role!r}), {shape}, {role!r})"
    return f"torch.from_numpy(np.ascontiguousarray({drawn}, dtype=np.float32)).to({dtype})"


def generator(families: set[str]) -> str:
    """Return the source of the bit stream and of these value families, with the functions that they call."""
    needed = {"STREAMS": f"STREAMS = {values.STREAMS!r}\n", "Stream": inspect.getsource(values.Stream)}
    for name in sorted(families):
        _collect(values.FAMILIES[name], needed)
    return "\n\n".join(needed.values())


def _collect(function: Callable[..., Any], needed: dict[str, str]) -> None:
    """Add the source of a function of `strategies.values`, after that of the functions it calls."""
    source = re.sub(r"\A@family\n", "", inspect.getsource(function))
    called = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for name in sorted(called - needed.keys()):
        helper = getattr(values, name, None)
        if isinstance(helper, FunctionType) and helper.__module__ == values.__name__:
            _collect(helper, needed)
    needed[function.__name__] = source


def _wrap(text: str, between: str) -> str:
    """Return the text on one line if it fits, else wrapped at `between`."""
    if len(text) <= _LINE:
        return text
    lines: list[str] = []
    line = ""
    for word in text.split(between):
        if len(line) + len(word) > _LINE:
            lines, line = [*lines, line.rstrip()], ""
        line += word + between
    return "\n    " + "\n    ".join([*lines, line.rstrip()]) + "\n"
