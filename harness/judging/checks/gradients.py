"""Checks that every input that needs a gradient gets one, and that it is within budget, element by element."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from harness.judging.checks.numbers import number_verdict
from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from strategies.features import gradient_of

_BACKWARD = ("forward_backward",)


@check(Stage.FORM, _BACKWARD)
def gradient_form(attempt: Attempt) -> Iterator[Verdict]:
    """Each gradient that is asked for is present, and has the shape, dtype and device of its input."""
    if attempt.result.cut_off and _may_be_constant(attempt):
        return
    if attempt.result.cut_off:
        roles = " and ".join(attempt.problem.needs_grad)
        yield _wrong(f"O came back without a grad_fn: no gradient reaches {roles}.")
        return
    gradients = attempt.result.gradients or {}
    for role, tensor in attempt.problem.inputs.items():
        name = gradient_of(role)
        if name in gradients and (sentence := _fault(name, gradients[name], role, tensor)):
            yield _wrong(sentence)


@check(Stage.GRADIENTS, _BACKWARD)
def gradient_of_q(attempt: Attempt) -> Iterator[Verdict]:
    """dQ, if asked for, is within its budget; it is 0 in a row that sees no key."""
    yield from _check_budget("dQ", "gradient_of_q", attempt)


@check(Stage.GRADIENTS, _BACKWARD)
def gradient_of_k(attempt: Attempt) -> Iterator[Verdict]:
    """dK, if asked for, is within its budget; it is 0 at a key that no query sees."""
    yield from _check_budget("dK", "gradient_of_k", attempt)


@check(Stage.GRADIENTS, _BACKWARD)
def gradient_of_v(attempt: Attempt) -> Iterator[Verdict]:
    """dV, if asked for, is within its budget; it is 0 at a key that no query sees."""
    yield from _check_budget("dV", "gradient_of_v", attempt)


def _check_budget(name: str, check: str, attempt: Attempt) -> Iterator[Verdict]:
    found = attempt.compared.get(name)
    if found is not None and not found.ok:
        parts = attempt.judgement.parts(name, found.index)
        yield number_verdict("wrong_gradient", check, name, found, parts, attempt)


def _may_be_constant(attempt: Attempt) -> bool:
    """Whether O may lack a grad_fn: it has no element, and the subject does not declare that it has gradients."""
    return attempt.result.output.numel() == 0 and attempt.subject.differentiable is None


def _fault(name: str, gradient: Tensor | None, role: str, of: Tensor) -> str | None:
    if gradient is None:
        return f"{name} is missing: the graph of O does not lead to {role}."
    if gradient.shape != of.shape:
        return f"{name} has the shape {tuple(gradient.shape)} and should have {tuple(of.shape)}."
    if gradient.dtype is not of.dtype:
        return f"{name} has the dtype {gradient.dtype} and should have {of.dtype}."
    if gradient.device != of.device:
        return f"{name} is on {gradient.device} and should be on {of.device}."
    return None


def _wrong(sentence: str) -> Verdict:
    return Verdict("wrong_gradient", "gradient_form", sentence)
