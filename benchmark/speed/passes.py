"""What is called of a provider on a row: its forward, or its backward from a forward that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from speed.providers import Provider, Refused
from speed.rows import Inputs, Row

Gradients = tuple[Tensor, ...]
"""dQ, dK and dV."""


@dataclass(frozen=True)
class Calls:
    """timed: what is held against the truth and timed; O, or the gradients. whole: what the memory is measured of.

    They differ for a backward row: `timed` goes back again and again through one forward, and `whole` is a forward and
    its backward together, since what the forward keeps for the backward is memory that training pays for.
    """

    timed: Callable[[], Any]
    whole: Callable[[], Any]


def calls_of(provider: Provider, row: Row, inputs: Inputs) -> Calls:
    """The calls of a provider on a row; the errors are those of its `bind` and of its forward."""
    if not row.backward:
        call = provider.bind(row, inputs)
        return Calls(call, call)
    q, k, v = leaves = tuple(x.detach().requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    forward = provider.bind(row, replace(inputs, q=q, k=k, v=v))
    return Calls(_again(forward(), leaves, inputs.dO), lambda: _gradients(forward(), leaves, inputs.dO, False))


def _again(O: Tensor, leaves: Gradients, dO: Tensor | None) -> Callable[[], Gradients]:
    if O.grad_fn is None:
        raise Refused("it has no backward")
    return lambda: _gradients(O, leaves, dO, True)


def _gradients(O: Tensor, leaves: Gradients, dO: Tensor | None, keep: bool) -> Gradients:
    return torch.autograd.grad(O, leaves, dO, retain_graph=keep)
