"""A subject: the attention function under test, with what it declares that it can do."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from harness.errors import CannotRun
from harness.subject.signature import EXAMPLE
from harness.subject.tuning import Tuned, tuners_of
from strategies import AttentionCase, Features, attention_cases
from strategies.case import OPERATIONS
from strategies.features import FEATURES
from strategies.limits import NO_LIMITS, Limits
from strategies.tensors import TORCH_DTYPES

Attention = Callable[..., Any]
DECLARATION = "__flashattest__"
"""The attribute of a function that holds what it declares: a plain dict, so that nothing need be imported for it."""

EXACT = (
    "deterministic",
    "batch_invariant",
    "gqa_invariant",
    "layout_invariant",
    "mask_invariant",
    "scale_invariant",
    "unit_weight",
)
"""What a subject may promise bit for bit: `harness.judging.relations` says what each means."""

LANES = ("undefined", "zero")
"""What the masked lanes of `tl.load` without `other` hold in the interpreter: what shows when it is used, or 0."""

ANY = "any"
"""In the place of an operation: all that the subject has."""


@dataclass(frozen=True)
class Subject:
    """An attention function and what may be asked of it.

    keywords: the feature keywords in its signature. The rest is declared in a dict `__flashattest__` on the function,
    under the same names: alignments of causal ("upper_left", "lower_right"), dtypes, head_dims (a collection) or
    min_head_dim and max_head_dim, gqa, layouts, devices, p_dtype (what P is cast to before P·V), masked_lanes (what
    `tl.load` without `other` gives there, of LANES), configs (values of `config=`, or names of configurations of
    autotuned kernels), exact (what it promises bit for bit, of EXACT), differentiable (None: it does not say), atol (an
    error of its own, as of quantisation, that is added to every budget), and each field of `Limits`.
    refuses: a regular expression; an exception whose text it matches is a refusal, as NotImplementedError always is.
    operation: narrows what is asked of it, ANY or one of OPERATIONS. differentiable_by: how that is known, in words.
    """

    name: str
    function: Attention
    keywords: frozenset[str]
    alignments: tuple[str, ...] = ("upper_left",)
    dtypes: tuple[str, ...] = ("fp32", "fp16", "bf16")
    head_dims: tuple[int, ...] = tuple(range(1, 257))
    gqa: bool = True
    layouts: tuple[str, ...] | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    p_dtype: str | None = None
    masked_lanes: str = LANES[0]
    configs: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    differentiable: bool | None = None
    limits: Limits = NO_LIMITS
    atol: float = 0.0
    refuses: str | None = field(default=None, compare=False)
    operation: str = field(default=ANY, compare=False)
    differentiable_by: str = field(default="declared", compare=False)

    def cases(self, **narrower: Any) -> SearchStrategy[AttentionCase]:
        """Draw the cases that this subject says it can take; keywords narrow further, as in `attention_cases`."""
        drawn: dict[str, Any] = {
            name: getattr(self, name) for name in ("dtypes", "gqa", "head_dims", "layouts", "limits")
        }
        drawn |= {name: each.taken_by(self) for name, each in FEATURES.items()}
        drawn["configs"] = drawn.pop("config")
        drawn["gradients"] = "only" if "forward" not in self.operations else "forward_backward" in self.operations
        return attention_cases(**(drawn | narrower))

    def takes(self, case: AttentionCase) -> bool:
        """Whether the case keeps the declared limits."""
        return self.limits == NO_LIMITS or self.limits.broken_by(case) is None

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that it is asked for: gradients only where it is known to be differentiable."""
        has = OPERATIONS if self.differentiable else ("forward",)
        return tuple(name for name in has if self.operation in (ANY, name))

    def arguments(self, features: Features, brought: Mapping[str, Tensor]) -> dict[str, Any]:
        """The keyword arguments of a call: what is left at its default is left out. brought: the features' tensors."""
        found: dict[str, Any] = {}
        for name, value in features.asked().items():
            found |= FEATURES[name].arguments(value, brought)
        return found

    def lacks(self, features: Features) -> str | None:
        """The feature asked for that the signature has no keyword of, or None."""
        return next((name for name in features.asked() if name not in self.keywords), None)

    def is_refusal(self, error: BaseException) -> bool:
        """Whether this exception says "not supported" and nothing worse."""
        if isinstance(error, NotImplementedError):
            return True
        return self.refuses is not None and re.search(self.refuses, f"{type(error).__name__}: {error}") is not None

    def card(self) -> Subject:
        """What the subject says of itself, without its function: it can be sent to another process."""
        return replace(self, function=_elsewhere)

    def end_call(self) -> None:
        """Undo what outlives a call, once its backward has run: the configuration of autotuned kernels."""
        if isinstance(self.function, Tuned):
            self.function.release()

    def torch_p_dtype(self) -> torch.dtype | None:
        """The dtype P is cast to, where the subject declares one."""
        return None if self.p_dtype is None else TORCH_DTYPES[self.p_dtype]


def _elsewhere(*arguments: Any, **features: Any) -> Any:
    raise RuntimeError("This subject's function lives in another process.")


_DECLARABLE = (
    "alignments",
    "dtypes",
    "head_dims",
    "gqa",
    "layouts",
    "devices",
    "p_dtype",
    "masked_lanes",
    "configs",
    "exact",
    "differentiable",
    "atol",
)
_LIMITS = tuple(field.name for field in fields(Limits))


def describe(function: Attention, name: str | None = None, refuses: str | None = None) -> Subject:
    """Make a subject of a function from its signature and its `__flashattest__` dict.

    Raises CannotRun where the dict declares something unknown, or where the function has no signature.
    """
    declared = dict(getattr(function, DECLARATION, {}))
    if "max_head_dim" in declared:
        declared["head_dims"] = range(1, declared.pop("max_head_dim") + 1)
    if "min_head_dim" in declared:
        least = declared.pop("min_head_dim")
        declared["head_dims"] = tuple(d for d in declared.get("head_dims", Subject.head_dims) if d >= least)
    for key, value in declared.items():
        if key not in (*_DECLARABLE, *_LIMITS):
            known = ", ".join((*_DECLARABLE, *_LIMITS, "min_head_dim"))
            raise CannotRun(f"{DECLARATION} declares {key!r}; it may hold {known} and max_head_dim.")
        declared[key] = tuple(value) if isinstance(value, list | range) else value
    atol = declared.get("atol", 0.0)
    if isinstance(atol, bool) or not isinstance(atol, int | float) or not 0 <= atol < math.inf:
        raise CannotRun(f"{DECLARATION} declares atol={atol!r}; it is a finite number of 0 or more.")
    confined = {key: declared.pop(key) for key in _LIMITS if key in declared}
    try:
        limits = Limits(**confined)
    except ValueError as error:
        raise CannotRun(f"{DECLARATION}: {error}") from None
    for promise in declared.get("exact", ()):
        if promise not in EXACT:
            raise CannotRun(f"{DECLARATION} promises {promise!r} under 'exact'; it may promise {', '.join(EXACT)}.")
    lanes = declared.get("masked_lanes", LANES[0])
    if lanes not in LANES:
        raise CannotRun(f"{DECLARATION} declares masked_lanes={lanes!r}; it is {' or '.join(LANES)}.")
    if declared.get("differentiable") not in (None, True, False):
        raise CannotRun(f"{DECLARATION} declares differentiable={declared['differentiable']!r}; it is True or False.")
    own_name = name or f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"
    keywords = _keywords(function, own_name)
    tuners = () if "config" in keywords or "configs" in declared else tuners_of(function)
    if tuners:
        function = Tuned(function, tuners)
        keywords, declared["configs"] = keywords | {"config"}, function.configs
    return replace(Subject(own_name, function, keywords, limits=limits, refuses=refuses), **declared)


def _keywords(function: Attention, name: str) -> frozenset[str]:
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    except (ValueError, TypeError) as error:
        raise CannotRun(
            f'{name} has no signature that Python can read; give one, such as --signature "{EXAMPLE}", with the '
            f"function's own name after a colon where it differs: causal:is_causal=False."
        ) from error
    return frozenset(name for name in FEATURES if name in parameters)
