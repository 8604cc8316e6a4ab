"""Relation: the same call twice gives the same."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judging.relations.base import Base, Claim
from harness.judging.relations.registry import relation


@relation(exact="deterministic")
def same_call_twice(base: Base) -> Iterator[Claim]:
    """The same tensors give the same result: bit for bit if no sum has a random order."""
    yield from base.same(base.again(), "Called a second time with the same tensors", kind="not_repeatable")
