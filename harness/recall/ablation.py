"""A campaign with a part of the harness left out: the part is worth what is then no longer found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy

from harness.errors import CannotRun
from harness.judging.checks import CHECKS
from harness.judging.relations import RELATIONS
from harness.subject.declaration import Subject
from oracles import Budget, GradientBudget, Gradients, Truth, judgement
from strategies import AttentionCase, Problem

NUMBERS = frozenset(
    {"returns", "form", "values", "lse", "gradient_form", "gradient_of_q", "gradient_of_k", "gradient_of_v"}
)
"""The checks that hold a single call against float64, and what they take for granted."""


@dataclass(frozen=True)
class Ablation:
    """A part left out. draws: what narrows the cases. left_out: checks and relations that are not asked.

    tolerance: in place of the budget, what `allclose` would be given as atol and rtol.
    """

    name: str
    draws: Mapping[str, Any] = field(default_factory=dict)
    left_out: Callable[[], Collection[str]] = frozenset
    tolerance: float | None = None

    def subject(self, subject: Subject) -> Subject:
        """The subject, with fewer kinds of cases drawn."""
        own = {each.name: getattr(subject, each.name) for each in fields(subject)}
        return _Narrowed(**own, narrower=self.draws)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Judge without the part while this lasts."""
        names = set(self.left_out())
        with ExitStack() as stack:
            for register in (CHECKS, RELATIONS):
                stack.enter_context(_without(register, names))
            if self.tolerance is not None:
                stack.enter_context(_fixed_budget(self.tolerance))
            yield


@dataclass(frozen=True)
class _Narrowed(Subject):
    narrower: Mapping[str, Any] = field(default_factory=dict)

    def cases(self, **narrower: Any) -> SearchStrategy[AttentionCase]:
        return super().cases(**{**self.narrower, **narrower})


@contextmanager
def _without(register: dict[str, Any], names: Collection[str]) -> Iterator[None]:
    whole = dict(register)
    for name in names:
        register.pop(name, None)
    try:
        yield
    finally:
        register.clear()
        register.update(whole)


@contextmanager
def _fixed_budget(tolerance: float) -> Iterator[None]:
    """Every attempt has atol + rtol·|truth| for a budget, and relations, which use twice the budget, twice that.

    It replaces `forward_budget` and `gradient_budget` in `oracles.judgement`, which makes every budget of a campaign.
    """

    def fixed(problem: Problem, truth: Truth, *arguments: Any) -> Budget:
        right = {name: torch.nan_to_num(tensor, neginf=0.0).abs() for name, tensor in truth.tensors.items()}
        return Budget({name: tolerance + tolerance * size for name, size in right.items()})

    def fixed_of_gradients(problem: Problem, truth: Truth, right: Gradients, *arguments: Any) -> GradientBudget:
        return GradientBudget({name: tolerance + tolerance * x.abs() for name, x in right.by_name.items()})

    place: Any = judgement
    whole = place.forward_budget, place.gradient_budget
    place.forward_budget, place.gradient_budget = fixed, fixed_of_gradients
    try:
        yield
    finally:
        place.forward_budget, place.gradient_budget = whole


ABLATIONS = {
    ablation.name: ablation
    for ablation in (
        Ablation("whole"),
        Ablation("without relations", left_out=lambda: RELATIONS.keys()),
        Ablation("fixed 1e-2 for a budget", tolerance=1e-2),
        Ablation("normal values alone", draws={"families": ("normal",)}),
        Ablation("contiguous layouts alone", draws={"layouts": ("contiguous",)}),
        Ablation("without earlier calls", draws={"history": False}),
        Ablation("float64 alone", left_out=lambda: (CHECKS.keys() | RELATIONS.keys()) - NUMBERS),
    )
}
WITHOUT = "without "


def ablation(name: str) -> Ablation:
    """The ablation of that name: one of ABLATIONS, or "without " and the name of a check or relation."""
    if name in ABLATIONS:
        return ABLATIONS[name]
    left_out = name.removeprefix(WITHOUT)
    if left_out not in CHECKS.keys() | RELATIONS.keys():
        raise CannotRun(f"An ablation is one of {', '.join(ABLATIONS)}, or 'without' and a check, not {name!r}.")
    return Ablation(name, left_out=lambda: {left_out})
