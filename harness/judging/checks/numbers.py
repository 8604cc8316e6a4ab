"""Checks that O and LSE are within budget, element by element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.judging.checks.registry import Stage, check
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from oracles import Comparison


@check(Stage.NUMBERS)
def values(attempt: Attempt) -> Iterator[Verdict]:
    """O is within its budget; NaN and inf appear only where float64 has them too."""
    found = attempt.compared["O"]
    if not found.ok:
        kind = "wrong_values" if found.is_finite else "not_finite"
        yield number_verdict(kind, "values", "O", found, attempt.judgement.parts("O", found.index), attempt)


@check(Stage.NUMBERS)
def lse(attempt: Attempt) -> Iterator[Verdict]:
    """LSE, if returned, is within its budget; a row that sees no key has LSE = -inf."""
    found = attempt.compared.get("LSE")
    if found is not None and not found.ok:
        verdict = _verdict("wrong_lse", "lse", "LSE", found, attempt.judgement.parts("LSE", found.index))
        yield _with_lanes(verdict, attempt)


def number_verdict(
    kind: str, check: str, tensor: str, found: Comparison, parts: dict[str, float], attempt: Attempt
) -> Verdict:
    """Make the verdict on a tensor's worst element.

    A NaN that is gone once the memory outside the tensors holds 0 was read there.
    """
    verdict = _verdict(kind, check, tensor, found, parts)
    if found.is_finite or not attempt.is_right_with_zero_guards:
        return _with_lanes(verdict, attempt)
    sentence = f"{verdict.sentence} It is right if the memory outside the tensors holds 0: that memory was read."
    return replace(verdict, kind="out_of_bounds", sentence=sentence)


def _with_lanes(verdict: Verdict, attempt: Attempt) -> Verdict:
    """Say where the fault is that a masked lane is used, which only the interpreter can show.

    A gradient stays a wrong gradient, which says nothing where the forward is wrong for the same reason.
    """
    if not attempt.is_right_with_zero_lanes:
        return verdict
    why = "It is right where lanes that tl.load masks without `other` hold 0; on a GPU they are undefined."
    kind = verdict.kind if verdict.kind == "wrong_gradient" else "undefined_lanes"
    return replace(verdict, kind=kind, sentence=f"{verdict.sentence} {why}")


def _verdict(kind: str, check: str, tensor: str, found: Comparison, parts: dict[str, float]) -> Verdict:
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
