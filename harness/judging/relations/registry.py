"""The relations by name, which of them a case is put to, and what comes of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.errors import Refused
from harness.judging.relations.base import Base, Broken, Claim
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.subject.declaration import EXACT
from oracles import Comparison, compare
from oracles.features import PREMISES

ALWAYS = "always"
"""In the place of a property: exact for every subject that is right."""

BITS = "bit for bit"
"""The part that a budget of 0 is made of where a result is near enough, and not what was promised."""

Claims = Callable[[Base], Iterator[Claim]]
When = Callable[[Attempt], bool]


@dataclass(frozen=True)
class Relation:
    """A relation: the property that makes it bit-exact (None: none does), its price, when it says anything, its claims.

    price: 1 for a call on a small problem, 2 for two, or for one and a truth in float64. of_gradients: it says nothing
    of a case without a backward. needs: the PREMISES that it takes for granted.
    """

    name: str
    exact: str | None
    price: int
    when: When
    claims: Claims
    of_gradients: bool = False
    needs: frozenset[str] = frozenset()

    def applies(self, attempt: Attempt) -> bool:
        """Whether it says anything of a case."""
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

    Raises ValueError for a property or a premise that there is not.
    """
    if unknown := set(needs) - set(PREMISES):
        raise ValueError(f"needs must name some of {', '.join(PREMISES)}, not {', '.join(sorted(unknown))}.")
    if exact is not None and exact != ALWAYS and exact not in EXACT:
        raise ValueError(f"exact must be one of {', '.join(EXACT)}, ALWAYS or None, not {exact!r}.")

    def register(claims: Claims) -> Claims:
        name = claims.__name__
        RELATIONS[name] = Relation(name, exact, price, when, claims, of_gradients, frozenset(needs))
        return claims

    return register


def chosen(attempt: Attempt) -> list[Relation]:
    """The few relations that a case is put to: they follow from the case alone, and cost less the larger it is.

    Those of gradients come first every second time that they can: the others are asked in forward cases too.
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
    """What the relations of a case may cost: a problem of no size has room for two truths, a large one for a call."""
    g = attempt.case.geometry
    size = attempt.case.work + g.B * g.d * (g.Hq * g.Nq + 2 * g.Hk * g.Nk)
    if size <= 1 << 12:
        return 4 if digest % 2 == 0 else 2
    if size <= 1 << 15:
        return 4 if digest % 8 == 0 else 2
    return 1 if digest % 2 == 0 else 0


def hold(
    attempt: Attempt, also: Collection[str] = (), others: bool = True, at: Callable[[str], None] = lambda name: None
) -> Iterator[Verdict]:
    """Hold a right result thoroughly against the relations in `also`, and against the others chosen for its case.

    at: told the name of each relation before it calls the subject again.
    """
    named = [RELATIONS[name] for name in RELATIONS if name in also and RELATIONS[name].applies(attempt)]
    unnamed = [relation for relation in chosen(attempt) if relation.name not in also] if others else []
    if not (named or unnamed):
        return
    base = Base.of(attempt)
    for each in [*named, *unnamed]:
        at(each.name)
        verdict = _held(each, replace(base, thorough=each.name in also))
        if verdict is not None:
            yield verdict


def broken_claim(attempt: Attempt, name: str) -> Claim | None:
    """The claim of a relation that a right result does not hold, with the budget that it fails, or None.

    Raises Refused or Broken where a further call does.
    """
    first = _first_broken(RELATIONS[name], replace(Base.of(attempt), thorough=True))
    return None if first is None else first[0]


def _held(relation: Relation, base: Base) -> Verdict | None:
    """What is wrong with the first claim that does not hold; a subject that refuses a further call is let off."""
    try:
        if first := _first_broken(relation, base):
            claim, found, parts = first
            return replace(_verdict(relation, claim, found), parts=parts)
    except Refused:
        return None
    except Broken as broken:
        said = broken.verdict
        return Verdict(said.kind, relation.name, f"In a further call that {relation.name} makes: {said.sentence}")
    return None


def _first_broken(relation: Relation, base: Base) -> tuple[Claim, Comparison, dict[str, float]] | None:
    """The first claim that does not hold, where it is worst, and the parts of a budget of 0."""
    is_exact = relation.exact == ALWAYS or relation.exact in base.attempt.subject.exact
    for claim in relation.claims(base):
        found = compare(claim.got, claim.wanted, claim.budget)
        if not found.ok:
            return claim, found, {}
        if is_exact:
            exactly = replace(claim, budget=_exactly(claim))
            found = compare(claim.got, claim.wanted, exactly.budget)
            if not found.ok:
                return exactly, found, {BITS: 0.0}
    return None


def _exactly(claim: Claim) -> Tensor:
    """The budget of a claim with nothing allowed where its bits must agree."""
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
