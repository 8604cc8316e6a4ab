"""The baselines by name, and what they share: inputs, a reference, and how a subject is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.subject import Subject

Suite = Callable[[Subject, str], bool]
Heads = tuple[int, int]


@dataclass(frozen=True)
class Baseline:
    """A suite of somebody's: its name, what it does (`rule`), where it stands (a URL, or None), and it."""

    name: str
    rule: str
    source: str | None
    suite: Suite

    def fires(self, subject: Subject, device: str) -> bool:
        """Whether the suite fails this subject; an exception that is no refusal fails any test."""
        try:
            return self.suite(subject, device)
        except Unusable:
            return True


BASELINES: dict[str, Baseline] = {}


def baseline(name: str, source: str | None = None) -> Callable[[Suite], Suite]:
    """Register a suite, which returns whether a subject fails it on a device. Its docstring is its rule."""

    def register(suite: Suite) -> Suite:
        BASELINES[name] = Baseline(name, " ".join((suite.__doc__ or "").split()), source, suite)
        return suite

    return register


class Unusable(Exception):
    """The subject raised on legal inputs, or returned no tensor of q's shape: no suite passes that."""


@dataclass(frozen=True)
class Inputs:
    """q (B, Hq, Nq, d), k and v (B, Hk, Nk, d), contiguous, and what is asked of them."""

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool | str = False
    scale: float | None = None

    @classmethod
    def randn(
        cls,
        seed: int,
        device: str,
        dtype: torch.dtype,
        *,
        B: int,
        H: Heads,
        N: tuple[int, int],
        d: int,
        causal: bool | str = False,
        scale: float | None = None,
        std: float = 1.0,
    ) -> Inputs:
        """Normal inputs: H is (Hq, Hk), N is (Nq, Nk)."""
        draw = torch.Generator().manual_seed(seed)
        shapes = [(B, H[0], N[0], d), (B, H[1], N[1], d), (B, H[1], N[1], d)]
        q, k, v = ((std * torch.randn(shape, generator=draw)).to(device, dtype) for shape in shapes)
        return cls(q, k, v, causal, scale)

    def ask(self, subject: Subject) -> Tensor | None:
        """O of the subject, or None where it refuses, or has no such feature. Raises Unusable."""
        wanted = {"causal": self.causal or None, "scale": self.scale}
        features = {name: value for name, value in wanted.items() if value is not None}
        if not features.keys() <= subject.keywords or (self.causal == "lower_right") > _has_lower_right(subject):
            return None
        try:
            returned = subject.function(self.q.clone(), self.k.clone(), self.v.clone(), **features)
        except Exception as error:
            if subject.is_refusal(error):
                return None
            raise Unusable from error
        O = returned[0] if isinstance(returned, tuple) else returned
        if not isinstance(O, Tensor) or O.shape != self.q.shape:
            raise Unusable
        return O

    def reference(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """O of a plain softmax that computes in a dtype, in the inputs' own; rows that see no key are 0."""
        q, k, v = (x.to(dtype) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scale = q.shape[3] ** -0.5 if self.scale is None else self.scale
        scores = q @ (k * scale).mT
        if self.causal:
            shift = scores.shape[3] - scores.shape[2] if self.causal == "lower_right" else 0
            seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril(shift)
            scores = scores.masked_fill(~seen, -torch.inf)
            return (scores.softmax(-1).masked_fill(~seen, 0.0) @ v).to(self.q.dtype)
        return (scores.softmax(-1) @ v).to(self.q.dtype)


def is_far(got: Tensor | None, want: Tensor, *, atol: float, rtol: float) -> bool:
    """Whether `allclose` says no, NaN among it; an answer that was refused is not far."""
    if got is None:
        return False
    return not (got.dtype is want.dtype and torch.allclose(got, want, atol=atol, rtol=rtol))


def diagonal(subject: Subject) -> bool | str:
    """The causal mask of suites whose diagonal ends in the lower right: that one where the subject has it."""
    return "lower_right" if _has_lower_right(subject) else True


def _has_lower_right(subject: Subject) -> bool:
    return "lower_right" in subject.alignments
