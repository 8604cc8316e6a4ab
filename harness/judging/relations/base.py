"""What a relation works with: a right result, ways to call the subject again, and the claims it makes of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.judging.checks.registry import Stage, look
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.running.call import call
from oracles import Budget, Judgement
from oracles.features import MEANINGS, Mask
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec
from strategies.case import INPUTS
from strategies.features import FEATURES, gradient_of
from strategies.layouts import LAYOUTS
from strategies.tensors import GUARD, memory_of, moved

T = TypeVar("T")
Place = tuple[slice, ...]
EVERYWHERE: Place = (slice(None), slice(None), slice(None))
ALL = tuple(map(gradient_of, INPUTS))


class Broken(Exception):
    """A further call did not come as far as numbers: it raised, or wrote where it must not."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


@dataclass(frozen=True)
class Claim:
    """That one output must equal another: bit for bit where `exact` says so and the subject declares it.

    tensor: "O", "LSE", "dQ", "dK" or "dV". budget: float64, the difference allowed where bits are not compared. what:
    the difference between the two calls, as the start of a sentence. kind: of the verdict, where the numbers alone do
    not tell.
    exact: False where the two calls differ in more than the declared property covers, or where it holds, as bools.
    """

    tensor: str
    got: Tensor
    wanted: Tensor
    budget: Tensor
    what: str
    kind: str | None = None
    exact: bool | Tensor = True


@dataclass(frozen=True)
class Laid:
    """A tensor that lies in memory as it is meant to: it is handed on as it is."""

    tensor: Tensor


@dataclass(frozen=True)
class Again(Attempt):
    """A further call on a changed problem. relaid: a changed tensor could not keep the layout of the case."""

    relaid: bool = False

    @cached_property
    def judgement(self) -> Judgement:
        """The judgement of the changed problem, whose values no longer count as drawn independently."""
        return Judgement(self.pristine, p_dtype=self.subject.torch_p_dtype(), independent=False)

    @property
    def O(self) -> Tensor:  # noqa: E743
        """O of this call."""
        return self.result.output

    @property
    def LSE(self) -> Tensor | None:
        """LSE of this call, where it came back."""
        return self.result.lse

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradients of this call, by name; none where it had no backward."""
        return self.result.found_gradients


@dataclass(frozen=True)
class Base:
    """A right result from which a relation starts.

    O, LSE, gradients (by name, none where the case has no backward): copies of it, where it is judged, made before
    any further call. thorough: take every choice that the relation has, not one that follows from the case's seed.
    """

    attempt: Attempt
    O: Tensor
    LSE: Tensor | None
    thorough: bool = False
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, attempt: Attempt) -> Base:
        """Start from an attempt that the checks have found right."""
        return cls(attempt, *attempt.copied(), gradients=attempt.copied_gradients())

    @property
    def problem(self) -> Problem:
        """The tensors of the base result, where it is judged: all but the calls themselves is done there."""
        return self.attempt.pristine

    @property
    def budget(self) -> Budget:
        """The budget of the base result."""
        return self.attempt.budget

    def choices(self, options: Sequence[T]) -> Sequence[T]:
        """One of the options, by the seed of the case, or all where thorough."""
        return options if self.thorough else [options[self.pick(len(options))]]

    def pick(self, n: int) -> int:
        """A number from 0 to n - 1 that follows from the seed of the case."""
        return zlib.crc32(str(self.attempt.case.q.seed).encode()) % n

    def again(
        self,
        *,
        layouts: Sequence[str] | None = None,
        needs_grad: tuple[str, ...] | None = None,
        backward: bool = True,
        places: Mapping[str, slice] | None = None,
        q: Tensor | Laid | None = None,
        k: Tensor | Laid | None = None,
        v: Tensor | Laid | None = None,
        dO: Tensor | Laid | None = None,
        dLSE: Tensor | Laid | None = None,
        **features: Any,
    ) -> Again:
        """Call the subject with some tensors or features changed; what is not named stays as it is.

        places: the part of the problem that the changed tensors are, along B, Hq, Hk, Nq and Nk: the features, and the
        tensors that they bring, are cut to it. A new tensor is laid out as the case's own was, contiguous where that
        was expanded, or as `layouts` (of q, k and v) says. There is a backward where dO is given, or where the base
        has one and its dO still has the shape of O; False leaves it out. dLSE goes where LSE is not asked for.
        Raises Refused where the subject refuses, Broken where the call fails before its numbers can be looked at.
        """
        case = self.attempt.case
        q, k, v = (
            self._laid(role, new, layout)
            for role, new, layout in zip(INPUTS, (q, k, v), layouts or (None, None, None), strict=True)
        )
        asked = case.features.part(places or {}).replace(**features)
        given = self._given_gradients(q, asked.return_lse, dO, dLSE) if backward else (None, None)
        changed = case.replace(
            geometry=_geometry(q, k), features=asked, history=(), **_operation(case, *given, needs_grad)
        )
        needs = () if given[0] is None else changed.needs_grad
        return self._called(changed, Problem(q, k, v, asked, self._brought(asked, places or {}), *given, needs))

    def part(self, places: Mapping[str, slice], **changed: Any) -> Again:
        """Call the subject on a part of the problem, as `cut` makes it; `changed` as in `again`."""
        tensors = self.cut(places).tensors
        own = {name: tensors[name] for name in (*INPUTS, "dO", "dLSE") if name in tensors}
        return self.again(places=places, **(own | changed))

    def cut(self, places: Mapping[str, slice]) -> Problem:
        """The part of the problem at these places along B, Hq, Hk, Nq and Nk."""
        whole = self.problem

        def part(tensor: Tensor, *axes: str) -> Tensor:
            return tensor[tuple(places.get(axis, slice(None)) for axis in axes)]

        k, v = (part(tensor, "B", "Hk", "Nk") for tensor in (whole.k, whole.v))
        dO, dLSE = (None if x is None else part(x, "B", "Hq", "Nq") for x in (whole.dO, whole.dLSE))
        asked = whole.features.part(places)
        q, brought = part(whole.q, "B", "Hq", "Nq"), self._brought(asked, places)
        return Problem(q, k, v, asked, brought, dO, dLSE, whole.needs_grad)

    def unmasked(self) -> dict[str, Any]:
        """The features that hide keys, each with the value that hides none: for `again`."""
        return {name: FEATURES[name].default for name, each in MEANINGS.items() if isinstance(each, Mask)}

    def _brought(self, asked: Features, places: Mapping[str, slice]) -> dict[str, Tensor]:
        """The tensors that the features of a further call bring: of floats, parts of the base's own."""
        roles = asked.roles()
        parts = {name: role.part(self.problem.brought[name], places) for name, role in roles.items()}
        whole = (FEATURES[name].tensors(value) for name, value in asked.asked().items())
        made = {name: tensor.to(self.problem.q.device) for tensors in whole for name, tensor in tensors.items()}
        return parts | made

    def _given_gradients(
        self, q: Tensor, with_lse: bool, dO: Tensor | Laid | None, dLSE: Tensor | Laid | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """dO and dLSE of a further call; None where there is none."""
        old = self.problem
        if dO is None and (old.dO is None or old.dO.shape != q.shape):
            return None, None
        laid = self._laid("dO", dO, None)
        if not with_lse or (dLSE is None and (old.dLSE is None or old.dLSE.shape != q.shape[:3])):
            return laid, None
        return laid, self._laid("dLSE", dLSE, None)

    def _called(self, changed: AttentionCase, made: Problem) -> Again:
        """A further call, on tensors that lie where it is judged."""
        old = self.problem
        problem = self._where_it_runs(made)
        relaid = any(
            made.tensors[role].stride() != was.stride() and 0 in was.stride()
            for role, was in old.tensors.items()
            if role in made.tensors
        )
        elsewhere = None if self.attempt.elsewhere is None else made
        result = call(self.attempt.subject, changed, problem)
        again = Again(self.attempt.subject, changed, problem, result, elsewhere, relaid)
        for verdict in look(again, (Stage.CALL, Stage.FORM)):
            raise Broken(verdict)
        # The next call may write to what this one returned: that is for first_output_kept alone to say.
        return replace(again, result=replace(result, returned=again.copied(), gradients=again.copied_gradients()))

    def _where_it_runs(self, made: Problem) -> Problem:
        """A problem on the subject's device; what is left as it was is the very tensor of the first call."""
        device, first, old = self.attempt.device, self.attempt.problem, self.problem
        if self.attempt.elsewhere is None:
            return made

        old_tensors, first_tensors = old.tensors, first.tensors
        tensors = {
            name: first_tensors[name] if tensor is old_tensors.get(name) else moved(tensor, device)
            for name, tensor in made.tensors.items()
        }
        whole = {name: tensor.to(device) for name, tensor in made.brought.items()}
        return replace(made, brought=whole).with_tensors(tensors)

    def mapped(self, role: str, change: Callable[[Tensor], Tensor]) -> Laid:
        """A tensor of the problem with a function applied to every element of its memory, NaN bands included."""
        tensor: Tensor = getattr(self.problem, role)
        return Laid(change(memory_of(tensor)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()))

    def same(
        self,
        other: Again,
        what: str,
        *,
        here: Place = EVERYWHERE,
        there: Place = EVERYWHERE,
        keys_here: Place | None = None,
        keys_there: Place | None = None,
        gradients: Collection[str] = ALL,
        kind: str | None = None,
    ) -> Iterator[Claim]:
        """Claim that `there` in the other call's O and LSE stands what stands `here` in the base's.

        So it does in dQ, and at keys_there and keys_here in dK and dV, where both calls have the gradient and
        `gradients` names it. Where it is not said which keys stand for which, dK and dV are claimed everywhere, or
        not at all where O is not.
        Allowed are twice the base's budget: for relations that leave the truth, and so its budget, as it is. What a
        subject promises bit for bit it promises of O and LSE; of gradients, that they are the same each time.
        """
        exact = not other.relaid or "layout_invariant" in self.attempt.subject.exact
        yield Claim("O", other.O[there], self.O[here], 2 * self.budget.O[here], what, kind, exact)
        if self.LSE is not None and other.LSE is not None:
            yield Claim("LSE", other.LSE[there], self.LSE[here], 2 * self.budget.LSE[here], what, kind, exact)
        if keys_here is None and here == there == EVERYWHERE:
            keys_here = EVERYWHERE
        of_keys = None if keys_here is None else (keys_here, keys_there or keys_here)
        for name, places in {"dQ": (here, there), "dK": of_keys, "dV": of_keys}.items():
            if places is not None and name in gradients and name in self.gradients and name in other.gradients:
                yield self._same_gradient(name, other, *places, what, kind)

    def _same_gradient(self, name: str, other: Again, here: Place, there: Place, what: str, kind: str | None) -> Claim:
        budget = self.attempt.judgement.budget(name)
        got, wanted = other.gradients[name][there], self.gradients[name][here]
        return Claim(name, got, wanted, 2 * budget[here], what, kind, kind in ("not_repeatable", "history_dependent"))

    def _laid(self, role: str, new: Tensor | Laid | None, layout: str | None) -> Tensor:
        """A tensor of the next call in memory: the old one, a new one as the old one was laid out, or as asked."""
        if isinstance(new, Laid):
            return new.tensor
        if new is None and layout is None:
            return getattr(self.problem, role)  # type: ignore[no-any-return]
        own: str = (getattr(self.attempt.case, role) or TensorSpec()).layout
        named = layout or ("contiguous" if own.startswith("expanded") else own)
        tensor = getattr(self.problem, role) if new is None else new
        return place(tensor[..., None], named)[..., 0] if role == "dLSE" else place(tensor, named)


def _geometry(q: Tensor, k: Tensor) -> Geometry:
    B, Hq, Nq, d = q.shape
    return Geometry(B, Hq, k.shape[1], Nq, k.shape[2], d)


def _operation(
    case: AttentionCase, dO: Tensor | None, dLSE: Tensor | None, needs_grad: tuple[str, ...] | None
) -> dict[str, Any]:
    """The fields of a case that say whether it has a backward, and of what."""
    if dO is None:
        return {"operation": "forward", "dO": TensorSpec(), "dLSE": None, "needs_grad": INPUTS}
    spec = None if dLSE is None else case.dLSE or TensorSpec()
    return {"operation": "forward_backward", "dLSE": spec, "needs_grad": needs_grad or case.needs_grad}


def place(tensor: Tensor, layout: str) -> Tensor:
    """A copy of a (B, H, N, d) tensor in the layout of that name, which expands nothing, between bands of NaN."""
    B, H, N, d = tensor.shape
    placement = LAYOUTS[layout]((B, H, N, d))
    reach = placement.offset + sum((n - 1) * s for n, s in zip(tensor.shape, placement.strides, strict=True)) + 1
    size = -(-max(reach, 0) // 4) * 4 + 2 * GUARD
    memory = torch.full((size,), float("nan"), dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(tensor.shape, placement.strides, placement.offset + GUARD).copy_(tensor)
