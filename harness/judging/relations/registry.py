"""The registry of relations: selects those that a case is put to, and checks them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.errors import Refused
from harness.judging.relations.base import Base, Claim, FailedCall
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.subject.declaration import EXACT
from oracles import Comparison, compare
from oracles.features import PREMISES

ALWAYS_EXACT = "always"
"""Instead of a property: exact for every right subject."""

BITS = "bit for bit"
"""Names the budget of 0 in a verdict on a result that is within budget but not bit-exact as declared."""

Claims = Callable[[Base], Iterator[Claim]]
When = Callable[[Attempt], bool]


@dataclass(frozen=True)
class Relation:
    """A relation: the property that makes it bit-exact (None: none does), its price, when it applies, its claims.

    price: 1 for a call on a small problem, 2 for two, or for one and a truth in float64. of_gradients: it applies only
    to cases with a backward. needs: the PREMISES that it relies on.
    """

    name: str
    exact: str | None
    price: int
    when: When
    claims: Claims
    of_gradients: bool = False
    needs: frozenset[str] = frozenset()

    def applies(self, attempt: Attempt) -> bool:
        """Whether it applies to a case."""
        return not self.needs & attempt.broken_premises and self.when(attempt)


RELATIONS: dict[str, Relation] = {}


def _always(attempt: Attempt) -> bool:
    return True


def relation(
    *,
    exact: str | None,
    price: int = 1,
    when: When = _always,
    of_gradients: bool = False,
    needs: Collection[str] = (),
) -> Callable[[Claims], Claims]:
    """Register a relation under its function's name; the function yields the claims that must hold.

    Raises ValueError for an unknown property or premise.
    """
    if unknown := set(needs) - set(PREMISES):
        raise ValueError(f"needs must name some of {', '.join(PREMISES)}, not {', '.join(sorted(unknown))}.")
    if exact is not None and exact != ALWAYS_EXACT and exact not in EXACT:
        raise ValueError(f"exact must be one of {', '.join(EXACT)}, ALWAYS_EXACT or None, not {exact!r}.")

    def register(claims: Claims) -> Claims:
        name = claims.__name__
        RELATIONS[name] = Relation(name, exact, price, when, claims, of_gradients, frozenset(needs))
        return claims

    return register


def select_relations(attempt: Attempt) -> list[Relation]:
    """Select the few relations that a case is put to, by a hash of the case; a larger case gets cheaper ones.

    In every second case with a backward, those of gradients come first: forward cases cover the others too.
    """
    digest = zlib.crc32(repr(attempt.case).encode())
    comes_later = (digest >> 8) % 2
    left = _allowance(attempt, digest)
    found = []
    order = {name: zlib.crc32(name.encode(), digest) for name in RELATIONS}
    for each in sorted(RELATIONS.values(), key=lambda r: (not r.of_gradients or comes_later, order[r.name])):
        if left == 0:
            break
        if each.price <= left and each.applies(attempt):
            found.append(each)
            left -= each.price
    return found


def _allowance(attempt: Attempt, digest: int) -> int:
    """Return the total price of a case's relations: two truths for a tiny problem, a call at most for a large one."""
    g = attempt.case.geometry
    size = attempt.case.work + g.B * g.d * (g.Hq * g.Nq + 2 * g.Hk * g.Nk)
    if size <= 1 << 12:
        return 4 if digest % 2 == 0 else 2
    if size <= 1 << 15:
        return 4 if digest % 8 == 0 else 2
    return 1 if digest % 2 == 0 else 0


def check_relations(
    attempt: Attempt, also: Collection[str] = (), others: bool = True, at: Callable[[str], None] = lambda name: None
) -> Iterator[Verdict]:
    """Put a right result thoroughly to the relations in `also`, and to the others selected for its case.

    at: called with the name of each relation before it calls the subject again.
    """
    named = [RELATIONS[name] for name in RELATIONS if name in also and RELATIONS[name].applies(attempt)]
    unnamed = [relation for relation in select_relations(attempt) if relation.name not in also] if others else []
    if not (named or unnamed):
        return
    base = Base.of(attempt)
    for each in [*named, *unnamed]:
        at(each.name)
        verdict = _check(each, replace(base, thorough=each.name in also))
        if verdict is not None:
            yield verdict


def failed_claim(attempt: Attempt, name: str) -> Claim | None:
    """Return the first claim of a relation that fails on a right result, with the budget that it exceeds, or None.

    Raises Refused or FailedCall if a further call does.
    """
    first = _first_failure(RELATIONS[name], replace(Base.of(attempt), thorough=True))
    return None if first is None else first[0]


def _check(relation: Relation, base: Base) -> Verdict | None:
    """Return a verdict on the first claim that fails; a subject that refuses a further call passes."""
    try:
        if first := _first_failure(relation, base):
            claim, found, parts = first
            return replace(_verdict(relation, claim, found), parts=parts)
    except Refused:
        return None
    except FailedCall as failed:
        verdict = failed.verdict
        return Verdict(verdict.kind, relation.name, f"In a further call that {relation.name} makes: {verdict.sentence}")
    return None


def _first_failure(relation: Relation, base: Base) -> tuple[Claim, Comparison, dict[str, float]] | None:
    """Return the first claim that fails, its worst element, and the parts of a budget of 0."""
    is_exact = relation.exact == ALWAYS_EXACT or relation.exact in base.attempt.subject.exact
    for claim in relation.claims(base):
        found = compare(claim.got, claim.wanted, claim.budget)
        if not found.ok:
            return claim, found, {}
        if is_exact:
            exact = replace(claim, budget=_exact_budget(claim))
            found = compare(claim.got, claim.wanted, exact.budget)
            if not found.ok:
                return exact, found, {BITS: 0.0}
    return None


def _exact_budget(claim: Claim) -> Tensor:
    """Return the budget of a claim, with 0 where its bits must agree."""
    return claim.budget.masked_fill(torch.as_tensor(claim.exact, device=claim.budget.device), 0.0)


def _verdict(relation: Relation, claim: Claim, found: Comparison) -> Verdict:
    of_O = "wrong_values" if found.is_finite else "not_finite"
    of_numbers = {"O": of_O, "LSE": "wrong_lse"}.get(claim.tensor, "wrong_gradient")
    place = f"{claim.tensor}{list(found.index)}"
    return Verdict(
        claim.kind or of_numbers,
        relation.name,
        f"{claim.what}: {place} is {found.got:.9g} and should be {found.wanted:.9g}.",
        ratio=found.ratio,
        tensor=claim.tensor,
        where=found.index,
        got=found.got,
        wanted=found.wanted,
        error=found.error,
        budget=found.budget,
    )
