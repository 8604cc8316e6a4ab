"""Attention over all keys at once, built in different ways."""

# ruff: noqa: D102 (the methods are steps of `blocks.Tiled`, described there)

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from harness.recall.faults.blocks import OneTile, Task, Tiled
from harness.recall.faults.registry import control
from harness.subject.adapters._sdpa import attention_by


@control("naive-fp32")
class Naive(OneTile):
    """A plain softmax in fp32."""


@control("float64")
class Double(Tiled):
    """The tiles in float64, rounded once at the end."""

    def scores(self, task: Task, keys: slice) -> Tensor:
        return task.q.double() @ task.k[:, :, keys].double().mT * task.scale

    def values(self, task: Task, keys: slice) -> Tensor:
        return super().values(task, keys).double()

    def first_max(self, task: Task) -> Tensor:
        return super().first_max(task).double()

    def lse(self, task: Task, m: Tensor, l: Tensor) -> Tensor:
        return super().lse(task, m, l).float()


@control("two-passes")
class TwoPasses(OneTile):
    """LSE first, then P as exp(S - LSE), which sums to 1 and is not divided again."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        keys = slice(0, task.Nk)
        s = self.hide(task, self.scores(task, keys), keys)
        LSE = s.logsumexp(-1) if task.Nk else s.new_full(s.shape[:3], -torch.inf)
        return (s - self.floor(LSE)[..., None]).exp() @ self.values(task, keys), LSE


def _sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    if k.shape[2] == 0:
        raise NotImplementedError("SDPA is not asked for problems without keys")
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    return attention_by(backend)(q, k, v, causal, scale)  # type: ignore[no-any-return]


@control("sdpa-math", alignments=("upper_left",), differentiable=True)
def sdpa_math(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """torch SDPA, math backend; the scale's sign goes into q, since it takes square roots of it.

    Gradients of groups are left out: those of a head's copies are rounded to the inputs' dtype before they are summed.
    """
    if (k.requires_grad or v.requires_grad) and q.shape[1] != k.shape[1]:
        raise NotImplementedError("gradients of copies are summed in the inputs' dtype")
    scale = q.shape[3] ** -0.5 if scale is None else scale
    return _sdpa(SDPBackend.MATH, q * (1 if scale >= 0 else -1), k, v, causal, abs(scale))


@control("sdpa-flash", alignments=("upper_left",))
def sdpa_flash(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, scale: float | None = None) -> Tensor:
    """torch SDPA, flash backend, for positive scales: it scales after it has masked.

    Forward alone: on the CPU its backward sums dV over blocks in the inputs' dtype, twice the budget in fp16.
    """
    if scale is not None and scale <= 0:
        raise NotImplementedError("the scale must be positive")
    # contiguous() keeps the odd strides of dimensions of size 1, which the backend does not take.
    q, k, v = (x.clone(memory_format=torch.contiguous_format) for x in (q, k, v))
    return _sdpa(SDPBackend.FLASH_ATTENTION, q, k, v, causal, scale)


@control("torch-softmax")
class TorchSoftmax(OneTile):
    """torch's own softmax, with rows that see no key set to 0 afterwards."""

    def attend(self, task: Task) -> tuple[Tensor, Tensor]:
        keys = slice(0, task.Nk)
        s = self.hide(task, self.scores(task, keys), keys)
        P = s.softmax(-1).masked_fill(task.limit == 0, 0.0)
        LSE = s.logsumexp(-1) if task.Nk else s.new_full(s.shape[:3], -torch.inf)
        return P @ self.values(task, keys), LSE
