"""The base of relations: a right result, ways to call the subject again, and claims about the results."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.judging.checks.registry import Stage, run_checks
from harness.judging.verdict import Verdict
from harness.running.attempt import Attempt
from harness.running.call import call
from oracles import Budget, Judgement
from oracles.features import MEANINGS, Mask
from strategies import AttentionCase, Features, Geometry, Problem, TensorSpec
from strategies.case import INPUTS
from strategies.features import FEATURES, gradient_of
from strategies.layouts import LAYOUTS
from strategies.tensors import GUARD, memory_of, move

T = TypeVar("T")
Place = tuple[slice, ...]
EVERYWHERE: Place = (slice(None), slice(None), slice(None))
QKV_GRADIENTS = tuple(map(gradient_of, INPUTS))


class FailedCall(Exception):
    """A further call gave no numbers to compare: it raised, wrote where it must not, or its result has a wrong form."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.sentence)
        self.verdict = verdict


@dataclass(frozen=True)
class Claim:
    """A claim that one output equals another: bit for bit where `exact` is True and the subject declares it.

    tensor: "O", "LSE", "dQ", "dK" or "dV". budget: float64, the difference allowed where bits are not compared. what:
    the difference between the two calls, as the start of a sentence. kind: of the verdict, None to derive it from the
    numbers. exact: False if the two calls differ in more than the declared property covers; a tensor says it for each
    element.
    """

    tensor: str
    got: Tensor
    wanted: Tensor
    budget: Tensor
    what: str
    kind: str | None = None
    exact: bool | Tensor = True


@dataclass(frozen=True)
class LaidOut:
    """A tensor that already has its memory layout: it is passed on unchanged."""

    tensor: Tensor


@dataclass(frozen=True)
class FurtherCall(Attempt):
    """A further call on a changed problem. relaid: a changed tensor could not keep the layout of the case."""

    relaid: bool = False

    @cached_property
    def judgement(self) -> Judgement:
        """The judgement of the changed problem, whose values do not count as drawn independently."""
        return Judgement(self.pristine, p_dtype=self.subject.torch_p_dtype(), atol=self.subject.atol)

    @property
    def O(self) -> Tensor:  # noqa: E743
        """O of this call."""
        return self.result.output

    @property
    def LSE(self) -> Tensor | None:
        """LSE of this call, None if it was not returned."""
        return self.result.lse

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """The gradients of this call, by name; empty if it had no backward."""
        return self.result.found_gradients


@dataclass(frozen=True)
class Base:
    """A right result from which a relation starts.

    O, LSE, gradients (by name, empty if the case has no backward): copies on the device that judges, made before any
    further call. thorough: test every variant of the relation, not one selected by the case's seed.
    """

    attempt: Attempt
    O: Tensor
    LSE: Tensor | None
    thorough: bool = False
    gradients: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, attempt: Attempt) -> Base:
        """Start from an attempt that the checks have found right."""
        return cls(attempt, *attempt.copy_outputs(), gradients=attempt.copy_gradients())

    @property
    def problem(self) -> Problem:
        """The tensors of the base result on the device that judges: everything but the calls is done there."""
        return self.attempt.pristine

    @property
    def budget(self) -> Budget:
        """The budget of the base result."""
        return self.attempt.budget

    def choices(self, options: Sequence[T]) -> Sequence[T]:
        """Return one of the options, selected by the seed of the case, or all if thorough."""
        return options if self.thorough else [options[self.pick(len(options))]]

    def pick(self, n: int) -> int:
        """Return a number from 0 to n - 1, determined by the seed of the case."""
        return zlib.crc32(str(self.attempt.case.q.seed).encode()) % n

    def again(
        self,
        *,
        layouts: Sequence[str] | None = None,
        needs_grad: tuple[str, ...] | None = None,
        backward: bool = True,
        places: Mapping[str, slice] | None = None,
        q: Tensor | LaidOut | None = None,
        k: Tensor | LaidOut | None = None,
        v: Tensor | LaidOut | None = None,
        dO: Tensor | LaidOut | None = None,
        dLSE: Tensor | LaidOut | None = None,
        **features: Any,
    ) -> FurtherCall:
        """Call the subject with some tensors or features changed; the others stay as they are.

        places: the part of the problem that the changed tensors cover, along B, Hq, Hk, Nq and Nk: the features, and
        the tensors that they bring, are cut to it. A new tensor gets the layout of the case's own, contiguous if that
        is expanded, or the one in `layouts` (of q, k and v). There is a backward if dO is given, or if the base has one
        and its dO still has the shape of O; backward=False leaves it out. Without LSE there is no dLSE.
        Raises Refused if the subject refuses, FailedCall if the call fails before its numbers can be compared.
        """
        case = self.attempt.case
        q, k, v = (
            self._lay_out(role, new, layout)
            for role, new, layout in zip(INPUTS, (q, k, v), layouts or (None, None, None), strict=True)
        )
        asked = case.features.part(places or {}).replace(**features)
        given = self._output_gradients(q, asked.return_lse, dO, dLSE) if backward else (None, None)
        changed = case.replace(
            geometry=_geometry(q, k), features=asked, history=(), **_operation(case, *given, needs_grad)
        )
        needs = () if given[0] is None else changed.needs_grad
        return self._call(changed, Problem(q, k, v, asked, self._feature_tensors(asked, places or {}), *given, needs))

    def part(self, places: Mapping[str, slice], **changed: Any) -> FurtherCall:
        """Call the subject on a part of the problem, made by `cut`; `changed` as in `again`."""
        tensors = self.cut(places).tensors
        own = {name: tensors[name] for name in (*INPUTS, "dO", "dLSE") if name in tensors}
        return self.again(places=places, **(own | changed))

    def cut(self, places: Mapping[str, slice]) -> Problem:
        """Return the part of the problem at these places along B, Hq, Hk, Nq and Nk."""
        whole = self.problem

        def part(tensor: Tensor, *axes: str) -> Tensor:
            return tensor[tuple(places.get(axis, slice(None)) for axis in axes)]

        k, v = (part(tensor, "B", "Hk", "Nk") for tensor in (whole.k, whole.v))
        dO, dLSE = (None if x is None else part(x, "B", "Hq", "Nq") for x in (whole.dO, whole.dLSE))
        asked = whole.features.part(places)
        q, brought = part(whole.q, "B", "Hq", "Nq"), self._feature_tensors(asked, places)
        return Problem(q, k, v, asked, brought, dO, dLSE, whole.needs_grad)

    def unmasked(self) -> dict[str, Any]:
        """Return the features that hide keys, each with the value that hides none, as arguments of `again`."""
        return {name: FEATURES[name].default for name, each in MEANINGS.items() if isinstance(each, Mask)}

    def _feature_tensors(self, asked: Features, places: Mapping[str, slice]) -> dict[str, Tensor]:
        """Return the tensors that the features of a further call bring; float tensors are parts of the base's own."""
        roles = asked.roles()
        parts = {name: role.part(self.problem.brought[name], places) for name, role in roles.items()}
        whole = (FEATURES[name].tensors(value) for name, value in asked.asked().items())
        made = {name: tensor.to(self.problem.q.device) for tensors in whole for name, tensor in tensors.items()}
        return parts | made

    def _output_gradients(
        self, q: Tensor, with_lse: bool, dO: Tensor | LaidOut | None, dLSE: Tensor | LaidOut | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return dO and dLSE of a further call, each None if there is none."""
        old = self.problem
        if dO is None and (old.dO is None or old.dO.shape != q.shape):
            return None, None
        laid = self._lay_out("dO", dO, None)
        if not with_lse or (dLSE is None and (old.dLSE is None or old.dLSE.shape != q.shape[:3])):
            return laid, None
        return laid, self._lay_out("dLSE", dLSE, None)

    def _call(self, changed: AttentionCase, made: Problem) -> FurtherCall:
        """Make a further call, on tensors that lie on the device that judges."""
        old = self.problem
        problem = self._to_device(made)
        relaid = any(
            made.tensors[role].stride() != was.stride() and 0 in was.stride()
            for role, was in old.tensors.items()
            if role in made.tensors
        )
        elsewhere = None if self.attempt.elsewhere is None else made
        result = call(self.attempt.subject, changed, problem)
        again = FurtherCall(self.attempt.subject, changed, problem, result, elsewhere, relaid)
        for verdict in run_checks(again, (Stage.CALL, Stage.FORM)):
            raise FailedCall(verdict)
        # A later call may write to what this one returned: only first_output_kept reports that.
        return replace(again, result=replace(result, returned=again.copy_outputs(), gradients=again.copy_gradients()))

    def _to_device(self, made: Problem) -> Problem:
        """Return a problem on the subject's device; unchanged tensors are the same objects as in the first call."""
        device, first, old = self.attempt.device, self.attempt.problem, self.problem
        if self.attempt.elsewhere is None:
            return made

        old_tensors, first_tensors = old.tensors, first.tensors
        tensors = {
            name: first_tensors[name] if tensor is old_tensors.get(name) else move(tensor, device)
            for name, tensor in made.tensors.items()
        }
        whole = {name: tensor.to(device) for name, tensor in made.brought.items()}
        return replace(made, brought=whole).with_tensors(tensors)

    def map_memory(self, role: str, change: Callable[[Tensor], Tensor]) -> LaidOut:
        """Apply a function to every element of a tensor's memory, including the NaN bands."""
        tensor: Tensor = getattr(self.problem, role)
        return LaidOut(change(memory_of(tensor)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()))

    def same(
        self,
        other: FurtherCall,
        what: str,
        *,
        here: Place = EVERYWHERE,
        there: Place = EVERYWHERE,
        keys_here: Place | None = None,
        keys_there: Place | None = None,
        gradients: Collection[str] = QKV_GRADIENTS,
        kind: str | None = None,
    ) -> Iterator[Claim]:
        """Claim that O and LSE at `there` in the other call equal those at `here` in the base.

        The same is claimed of dQ, and of dK and dV at keys_there and keys_here, if both calls have the gradient and
        `gradients` names it. Without keys_here, dK and dV are claimed everywhere if O is, else not at all.
        The allowed difference is twice the base's budget: for relations that keep the truth, and so its budget.
        Exactness applies to O and LSE; to gradients only in claims that they are the same each time.
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

    def _same_gradient(
        self, name: str, other: FurtherCall, here: Place, there: Place, what: str, kind: str | None
    ) -> Claim:
        budget = self.attempt.judgement.budget(name)
        got, wanted = other.gradients[name][there], self.gradients[name][here]
        return Claim(name, got, wanted, 2 * budget[here], what, kind, kind in ("not_repeatable", "history_dependent"))

    def _lay_out(self, role: str, new: Tensor | LaidOut | None, layout: str | None) -> Tensor:
        """Lay out a tensor of the next call: the old one, or a new one in the old or the given layout."""
        if isinstance(new, LaidOut):
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
    """Return the fields of a case that describe its backward."""
    if dO is None:
        return {"operation": "forward", "dO": TensorSpec(), "dLSE": None, "needs_grad": INPUTS}
    spec = None if dLSE is None else case.dLSE or TensorSpec()
    return {"operation": "forward_backward", "dLSE": spec, "needs_grad": needs_grad or case.needs_grad}


def place(tensor: Tensor, layout: str) -> Tensor:
    """Copy a (B, H, N, d) tensor into the layout of that name, which expands nothing, between bands of NaN."""
    B, H, N, d = tensor.shape
    placement = LAYOUTS[layout]((B, H, N, d))
    reach = placement.offset + sum((n - 1) * s for n, s in zip(tensor.shape, placement.strides, strict=True)) + 1
    size = -(-max(reach, 0) // 4) * 4 + 2 * GUARD
    memory = torch.full((size,), float("nan"), dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(tensor.shape, placement.strides, placement.offset + GUARD).copy_(tensor)
