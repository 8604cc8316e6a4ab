"""What runs a call once everything about it but its tensors is known, and what can make such a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .problem import BackwardProblem, Problem

P = TypeVar("P", bound=Problem | BackwardProblem)
P_contra = TypeVar("P_contra", contravariant=True)


@dataclass(frozen=True)
class Plan:
    """How one kind of call runs.

    path, config: who runs it and how it names its tile. launch: takes q, k, v, O (contiguous, like q), LSE (contiguous
    (B, Hq, Nq), fp32) and seqlens_k or None, of a call with the plan's values, and fills O and LSE on the device's
    current stream. It allocates only through torch and never waits for the device, so that a CUDA graph can record it.
    It keeps no tensor, and nothing that depends on the address of one but for its alignment to 16 bytes.

    The launch of a backward plan takes q, k, v, O (any layout), LSE (contiguous), dO (any layout), dLSE (any layout) or
    None, seqlens_k or None, and dQ, dK and dV, contiguous, to be filled, or None for each that is not needed.
    """

    path: str
    config: str
    launch: Callable[..., None]


class Path(Protocol[P_contra]):
    """One implementation of a pass, on a `Problem` or a `BackwardProblem`; `choose.py` lists them, the best one first.

    name: what `config=` calls it, a lower-case word; `config="name"` pins the path, `config="name:tile"` its tile too.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def refusal(self, problem: P_contra) -> str | None:
        """Why the path does not take the problem, as a clause ("the head dim 40 is no multiple of 16"), or None.

        It may depend on the problem and on what stays as it is while the process runs (the device's architecture,
        versions), on nothing else. No sizes in the text that need not be there: each reason is logged once.
        """
        ...

    def configs(self, problem: P_contra) -> tuple[str, ...]:
        """The tiles that autotuning tries, the shipped default among them."""
        ...

    def plan(self, problem: P_contra, config: str | None = None) -> Plan:
        """The plan of a problem that is not refused, at a tile or, with None, the shipped default.

        A forward problem has a query row; a backward plan must fill what is needed where there are no rows, keys or
        heads too. ValueError for a tile that cannot be read, NotImplementedError for one that cannot run here.
        """
        ...
