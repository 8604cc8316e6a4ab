"""What is called of a provider on a row: its forward, or its backward from a forward that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speed.providers import Provider, Refused
from speed.rows import Inputs, Row

Gradients = tuple[Tensor, ...]
"""dQ, dK and dV."""


@dataclass(frozen=True)
class Calls:
    """whole: a forward, or a forward and its backward, which gives O, or dQ, dK and dV; memory is measured of it.

    timed: makes the call that is timed. Of a backward row that one goes back again and again through one forward, which
    it keeps; so it is made after the memory is known.
    """

    whole: Callable[[], Any]
    timed: Callable[[], Callable[[], Any]]


def calls_of(provider: Provider, row: Row, inputs: Inputs) -> Calls:
    """The calls of a provider on a row; the errors are those of its `bind`."""
    if not row.backward:
        call = provider.bind(row, inputs)
        return Calls(call, lambda: call)
    q, k, v = leaves = tuple(x.detach().requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    forward = provider.bind(row, replace(inputs, q=q, k=k, v=v))
    return Calls(
        lambda: _gradients(forward(), leaves, inputs.dO, keep=False),
        lambda: partial(_gradients, forward(), leaves, inputs.dO, keep=True),
    )


def _gradients(O: Tensor, leaves: Gradients, dO: Tensor | None, keep: bool) -> Gradients:
    if O.grad_fn is None:
        raise Refused("it has no backward")
    return torch.autograd.grad(O, leaves, dO, retain_graph=keep)
