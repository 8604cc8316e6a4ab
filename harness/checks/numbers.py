"""O and LSE are within the budget of the truth, element by element."""

from __future__ import annotations

from collections.abc import Iterator

from harness.attempt import Attempt
from harness.checks.registry import Stage, check
from harness.verdict import Verdict
from oracles import Comparison


@check(Stage.NUMBERS)
def values(attempt: Attempt) -> Iterator[Verdict]:
    """O is within its budget; NaN and inf stand only where float64 has them too."""
    found = attempt.compared["O"]
    if not found.ok:
        yield _verdict("wrong_values" if found.is_finite else "not_finite", "values", "O", found, attempt)


@check(Stage.NUMBERS)
def lse(attempt: Attempt) -> Iterator[Verdict]:
    """LSE, where it came back, is within its budget; a row that sees no key has LSE = -inf."""
    found = attempt.compared.get("LSE")
    if found is not None and not found.ok:
        yield _verdict("wrong_lse", "lse", "LSE", found, attempt)


def _verdict(kind: str, check: str, tensor: str, found: Comparison, attempt: Attempt) -> Verdict:
    budget = attempt.budget
    parts = budget.parts_O(found.index) if tensor == "O" else budget.parts_LSE(found.index)
    place = f"{tensor}{list(found.index)}"
    return Verdict(
        kind,
        check,
        f"{place} is {found.got:.6g} and should be {found.wanted:.6g}.",
        ratio=found.ratio,
        tensor=tensor,
        where=found.index,
        got=found.got,
        wanted=found.wanted,
        error=found.error,
        budget=found.budget,
        parts=parts,
    )
