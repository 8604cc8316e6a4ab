"""Proposes the one declaration that would have kept a subject from refusing the cases that it refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from strategies import AttentionCase
from strategies.features import FEATURES, Feature
from strategies.limits import KEPT

LEAST_SHARE = 0.5
"""The share of the refused cases that a proposal must avoid."""
MULTIPLES = (128, 64, 32, 16, 8, 4, 2)
ROLES = ("q", "k", "v")


@dataclass(frozen=True)
class Proposal:
    """A declaration in the words of `__flashattest__`, and the cases that it leaves in."""

    text: str
    keeps: Callable[[AttentionCase], bool]


def propose(refused: Iterable[AttentionCase], taken: Iterable[AttentionCase]) -> str | None:
    """Return the declaration that would have avoided most of the refused cases and none of the taken ones.

    None if no declaration avoids half of the refused cases, or if nothing was taken: nothing then shows what is not
    to be avoided. Of two that avoid as many, the more general one is returned.
    """
    refused, taken = list(refused), list(taken)
    if not refused or not taken:
        return None
    fitting = [each for each in _proposals(taken) if all(map(each.keeps, taken))]
    avoided = {each.text: sum(not each.keeps(case) for case in refused) for each in fitting}
    best = max(avoided, key=avoided.__getitem__, default=None)
    return None if best is None or avoided[best] < LEAST_SHARE * len(refused) else best


def _proposals(taken: Sequence[AttentionCase]) -> Iterator[Proposal]:
    """Yield what could be declared of a subject that took these cases, the more general first."""
    yield _limit("self_attention", True)
    yield Proposal('"gqa": False', lambda case: case.geometry.group == 1)
    yield _limit("positive_scale", True)
    yield _limit("unit_last_stride", True)
    yield _limit("same_layout", True)
    yield _limit("min_length", 1)
    yield _limit("dLSE", False)
    yield Proposal('"differentiable": False', lambda case: not case.has_gradients)
    yield from (_limit(f"{name}_multiple_of", n) for name in ("Nq", "Nk") for n in MULTIPLES)
    yield from _without_features(taken)
    yield _names("dtypes", taken, lambda case: {case.dtype})
    yield _names("layouts", taken, lambda case: {getattr(case, role).layout for role in ROLES})
    yield _names("dO_layouts", taken, lambda case: {case.dO.layout} if case.has_gradients else set())
    dims = sorted({case.geometry.d for case in taken})
    yield _at_most("max_head_dim", dims[-1], lambda case: case.geometry.d)
    yield Proposal(f'"min_head_dim": {dims[0]}', lambda case: case.geometry.d >= dims[0])
    yield _at_most("max_Nq", max(1, *(case.geometry.Nq for case in taken)), lambda case: case.geometry.Nq)
    yield from (_multiple_of(n, dims[-1]) for n in (64, 32, 16, 8, 4, 2))
    yield Proposal(f'"head_dims": {tuple(dims)}', lambda case: case.geometry.d in dims)


def _multiple_of(n: int, largest: int) -> Proposal:
    return Proposal(f'"head_dims": range({n}, {largest + 1}, {n})', lambda case: case.geometry.d % n == 0)


def _limit(name: str, value: bool | int) -> Proposal:
    return Proposal(f'"{name}": {value}', lambda case: KEPT[name](case, value))


def _at_most(name: str, value: int, of: Callable[[AttentionCase], int]) -> Proposal:
    return Proposal(f'"{name}": {value}', lambda case: of(case) <= value)


def _names(key: str, taken: Sequence[AttentionCase], of: Callable[[AttentionCase], set[str]]) -> Proposal:
    """Return the declaration of the names that occur in the cases that were taken."""
    names = set().union(*map(of, taken))
    return Proposal(f'"{key}": {tuple(sorted(names))}', lambda case: of(case) <= names)


def _without_features(taken: Sequence[AttentionCase]) -> Iterator[Proposal]:
    """Yield, for each feature that no taken case has, to leave its keyword out, or to declare less of it."""
    kinds = {case.features.causal for case in taken}
    for alignment, kind in (("lower_right", True), ("upper_left", "lower_right")):
        if kind not in kinds:
            yield _alignment(alignment, kind)
    yield from map(_without, FEATURES.values())


def _alignment(alone: str, other: bool | str) -> Proposal:
    return Proposal(f'"alignments": ("{alone}",)', lambda case: case.features.causal != other)


def _without(feature: Feature) -> Proposal:
    return Proposal(f"no keyword {feature.name!r} in the signature", lambda case: not feature.is_on(case.features))
