"""Planted faults, correct controls and equivalents: each is one decorated function, or one `edit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from harness.judging.verdict import KINDS
from harness.recall.faults.planting import Edit, pinned, plant, with_slack
from harness.subject.declaration import DECLARATION, Attention, Subject, describe
from strategies import AttentionCase

Where = Literal["kernel", "torch", "process"]
ALIGNMENTS = ("upper_left", "lower_right")

NUMBERS = frozenset({"wrong_values", "not_finite", "wrong_lse"})
"""Verdict kinds that wrong numbers can cause: as NaN or inf too, and in LSE, which may be checked first or alone."""
READS_OUTSIDE = NUMBERS | {"out_of_bounds", "crashed"}
"""Verdict kinds that an out-of-bounds read can cause: wrong numbers, the read itself, or a crash."""
LSE = frozenset({"wrong_lse"})
"""Verdict kinds of a fault of LSE alone."""
GRADIENT = frozenset({"wrong_gradient"})
"""Verdict kinds of a fault of the backward pass; a gradient that is missing, not finite or of a wrong form is wrong."""
HISTORY = frozenset({"history_dependent", "not_repeatable"})
"""Verdict kinds of the relations that detect a result which depends on earlier calls."""


@dataclass(frozen=True)
class Planted:
    """An attention function known to be right or wrong. what: one sentence on it. make: makes it, without state."""

    id: str
    what: str
    make: Callable[[], Attention]

    def subject(self) -> Subject:
        """The function as a new subject, without the state of an earlier one."""
        return describe(self.make(), self.id)


@dataclass(frozen=True)
class Control(Planted):
    """A right function: every verdict on it is a false alarm."""


@dataclass(frozen=True)
class Equivalent(Planted):
    """A fault that no legal input shows, and the proof of that."""

    proof: str


@dataclass(frozen=True)
class Fault(Planted):
    """A wrong function, and how it shows.

    group: the letter of its class in the catalogue of reported faults (A to Y), here: A empty rows, B alignment of
    the diagonal, C tails, D head dimension, E lengths 0 and 1, F loop bounds, G running max and row sum, H scale,
    I overflow and NaN, J narrow offsets, K launch grid, L strides, M memory alignment, N head groups, O LSE, Q
    nondeterminism, R caches and configurations, S precision, T compiler, V bias, W memory, X split and merge,
    Y level of the input, Z the process.
    source: URL of a report of such a fault, or None. where: an edit of our Triton kernel, a torch function, or one
    that takes its process down. expects: kinds of verdict that are a detection. witness: a small case that shows it.
    relation: the name of the relation that it takes to see it, where no check of a single call can.
    twin: of an edit, the id of the torch function that has the same fault: the same mistake at the same step, whatever
    its constants (a dtype, the size of a tile). The two plants count as one fault.
    """

    group: str
    source: str | None
    where: Where
    expects: frozenset[str]
    witness: AttentionCase
    relation: str | None = None
    twin: str | None = None

    def __post_init__(self) -> None:
        unknown = self.expects - set(KINDS)
        if unknown or not self.expects:
            raise ValueError(f"Fault {self.id!r} must expect kinds of {', '.join(KINDS)}, not {sorted(unknown)}.")

    @property
    def distinct(self) -> str:
        """The id under which a fault and its twin count as one."""
        return self.twin or self.id

    @property
    def needs(self) -> frozenset[str]:
        """The feature keywords without which its witness could not be asked for."""
        features = self.witness.features.to_json()
        return frozenset(name for name, value in features.items() if value not in (None, False))


FAULTS: dict[str, Fault] = {}
CONTROLS: dict[str, Control] = {}
EQUIVALENTS: dict[str, Equivalent] = {}

P = TypeVar("P", bound=Planted)
F = TypeVar("F", bound=Attention)


def fault(
    group: str,
    id: str,
    source: str | None = None,
    *,
    witness: AttentionCase,
    expects: frozenset[str] = NUMBERS,
    where: Where = "torch",
    relation: str | None = None,
    **declares: Any,
) -> Callable[[F], F]:
    """Register an attention function, or a class whose instances are one, as a fault; its docstring says what is wrong.

    A class is instantiated for each subject, so that each starts without state. declares: entries of `__flashattest__`.
    """

    def register(attention: F) -> F:
        what, make = _described(attention, declares)
        _add(FAULTS, Fault(id, what, make, group, source, where, expects, witness, relation))
        return attention

    return register


def edit(
    group: str,
    id: str,
    source: str | None,
    what: str,
    replace: Sequence[tuple[str, str]],
    *,
    witness: AttentionCase,
    file: str = "portable/device/forward.py",
    expects: frozenset[str] = NUMBERS,
    slack: bool = False,
    relation: str | None = None,
    twin: str | None = None,
) -> None:
    """Register an edit of our kernel's source as a fault.

    replace: pairs (text that the file contains once, text in its place). slack: the fault reads past its tensors,
    which are then copied to where that much memory can be read, all NaN; such a read counts as a detection too.
    A fault whose witness has no backward is planted without one: a forward pass alone costs a third.
    """
    make = _planted(id, file, replace, slack, differentiable=witness.operation == "forward_backward")
    kinds = expects | READS_OUTSIDE if slack else expects
    _add(FAULTS, Fault(id, what, make, group, source, "kernel", kinds, witness, relation, twin))


def control(id: str, **declares: Any) -> Callable[[F], F]:
    """Register a correct attention function, or a class of such, as a control."""

    def register(attention: F) -> F:
        _add(CONTROLS, Control(id, *_described(attention, declares)))
        return attention

    return register


def pinned_control(id: str, what: str, config: str) -> None:
    """Register our kernel with one tile configuration as a control."""
    make = _planted(id, "", [], slack=False, differentiable=True)
    _add(CONTROLS, Control(id, what, lambda: pinned(make(), config)))


def equivalent(id: str, *, proof: str, **declares: Any) -> Callable[[F], F]:
    """Register a fault that no legal input shows, with the proof."""

    def register(attention: F) -> F:
        _add(EQUIVALENTS, Equivalent(id, *_described(attention, declares), proof))
        return attention

    return register


def equivalent_edit(
    id: str, what: str, replace: Sequence[tuple[str, str]], *, proof: str, file: str = "portable/device/forward.py"
) -> None:
    """Register an edit of our kernel's source that no legal input shows, with the proof."""
    make = _planted(id, file, replace, slack=False, differentiable=False)
    _add(EQUIVALENTS, Equivalent(id, what, make, proof))


def _described(attention: Any, declares: dict[str, Any]) -> tuple[str, Callable[[], Attention]]:
    """The docstring's sentence and what makes the function, which then declares what it can do."""
    what = " ".join((attention.__doc__ or "").split())
    if not what:
        raise ValueError(f"{attention.__qualname__} needs a docstring that says what it does.")
    inherited = getattr(attention, DECLARATION, {"alignments": ALIGNMENTS, "differentiable": False})
    setattr(attention, DECLARATION, inherited | declares)
    return what, attention if isinstance(attention, type) else lambda: attention


def _planted(
    id: str, file: str, replace: Sequence[tuple[str, str]], slack: bool, differentiable: bool
) -> Callable[[], Attention]:
    edits = [Edit(file, old, new) for old, new in replace]

    def make() -> Attention:
        attention = plant(id, edits)
        setattr(attention, DECLARATION, {**getattr(attention, DECLARATION), "differentiable": differentiable})
        return with_slack(attention) if slack else attention

    return make


def _add(register: dict[str, P], planted: P) -> None:
    if any(planted.id in known for known in (FAULTS, CONTROLS, EQUIVALENTS)):
        raise ValueError(f"Something planted is already named {planted.id!r}; give this one another name.")
    register[planted.id] = planted
