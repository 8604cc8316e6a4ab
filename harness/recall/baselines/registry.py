"""The baselines by name, and what they share: inputs, a reference, and how a subject is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.subject.declaration import Subject

Suite = Callable[[Subject, str], bool]
Answer = dict[str, Tensor]
"""O, and dQ, dK and dV where they were asked for, by these names."""
Heads = tuple[int, int]


@dataclass(frozen=True)
class Baseline:
    """Another project's test suite: its name, what it does (`rule`), its URL if it has one, and its function."""

    name: str
    rule: str
    source: str | None
    suite: Suite

    def fires(self, subject: Subject, device: str) -> bool:
        """Whether the suite fails this subject; an exception that is not a refusal fails any suite."""
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
    """The subject or its backward raised on legal inputs, or returned no tensor of q's shape: every suite fails it."""


@dataclass(frozen=True)
class Inputs:
    """q and dO (B, Hq, Nq, d), k and v (B, Hk, Nk, d), contiguous, and the features of the call."""

    q: Tensor
    k: Tensor
    v: Tensor
    dO: Tensor
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
        of_q, of_k = (B, H[0], N[0], d), (B, H[1], N[1], d)
        q, k, v = ((std * torch.randn(shape, generator=draw)).to(device, dtype) for shape in (of_q, of_k, of_k))
        return cls(q, k, v, torch.randn(of_q, generator=draw).to(device, dtype), causal, scale)

    def ask(self, subject: Subject) -> Answer | None:
        """The subject's answer, with gradients where it has them; None where it refuses, or has no such feature.

        Raises Unusable.
        """
        wanted = {"causal": self.causal or None, "scale": self.scale}
        features = {name: value for name, value in wanted.items() if value is not None}
        if not features.keys() <= subject.keywords or (self.causal == "lower_right") > _has_lower_right(subject):
            return None
        leaves = self._leaves(bool(subject.differentiable))
        try:
            returned = subject.function(*leaves, **features)
            O = returned[0] if isinstance(returned, tuple) else returned
            if not isinstance(O, Tensor) or O.shape != self.q.shape:
                raise Unusable
            return self._answer(O, leaves)
        except Exception as error:
            if subject.is_refusal(error):
                return None
            raise Unusable from error

    def reference(self, like: Collection[str] = ("O",), dtype: torch.dtype = torch.float32) -> Answer:
        """The answer of a plain softmax that computes in `dtype`, rounded to the inputs' own."""
        leaves = self._leaves("dQ" in like)
        return self._answer(self._plain(leaves, dtype), leaves)

    def _leaves(self, differentiated: bool) -> list[Tensor]:
        return [x.clone().requires_grad_(differentiated) for x in (self.q, self.k, self.v)]

    def _answer(self, O: Tensor, leaves: list[Tensor]) -> Answer:
        """O, and the gradients of leaves that require them."""
        if not leaves[0].requires_grad:
            return {"O": O}
        found = torch.autograd.grad(O, leaves, self.dO.clone(), materialize_grads=True)
        return {"O": O.detach(), **dict(zip(("dQ", "dK", "dV"), found, strict=True))}

    def _plain(self, leaves: list[Tensor], dtype: torch.dtype) -> Tensor:
        """O; rows that see no key are 0."""
        q, k, v = (x.to(dtype) for x in leaves)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scale = q.shape[3] ** -0.5 if self.scale is None else self.scale
        scores = q @ (k * scale).mT
        if self.causal:
            shift = scores.shape[3] - scores.shape[2] if self.causal == "lower_right" else 0
            seen = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril(shift)
            scores = scores.masked_fill(~seen, -torch.inf)
            return (scores.softmax(-1).masked_fill(~seen, 0.0) @ v).to(self.q.dtype)
        return (scores.softmax(-1) @ v).to(self.q.dtype)


def is_far(inputs: Inputs, subject: Subject, *, atol: float, rtol: float) -> bool:
    """Whether `allclose` says no of anything that the subject answers, NaN among it; a refusal is not far."""
    answer = inputs.ask(subject)
    if answer is None:
        return False
    right = inputs.reference(answer)
    return not all(
        x.dtype is right[name].dtype and torch.allclose(x, right[name], atol=atol, rtol=rtol)
        for name, x in answer.items()
    )


def diagonal(subject: Subject) -> bool | str:
    """The causal mask of suites whose diagonal ends in the lower right: that one where the subject has it."""
    return "lower_right" if _has_lower_right(subject) else True


def _has_lower_right(subject: Subject) -> bool:
    return "lower_right" in subject.alignments
