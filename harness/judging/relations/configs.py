"""Relation: tile configurations agree."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation
from harness.running.attempt import Attempt


def _has_configs(attempt: Attempt) -> bool:
    return "config" in attempt.subject.keywords and bool(attempt.subject.configs)


@relation(exact=None, when=_has_configs)
def any_config(base: Base) -> Iterator[Claim]:
    """Every tile configuration gives the same. Never bit for bit: tiles are summed in another order."""
    names = [name for name in (None, *base.attempt.subject.configs) if name != base.attempt.case.features.config]
    for name in base.choices(names):
        yield from base.same(base.again(config=name), f"With config {name or 'left out'}")
