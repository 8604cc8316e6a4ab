"""`kernel.flash_attention` with a configuration pinned, forward and backward: a subject for each that autotuning tries.

    python benchmark/pinned.py                                                      # their names
    flashattest fuzz --subject benchmark/pinned.py:half0 --device cuda --time 600

half0, half1 and so on are the portable path's tiles for tensor cores and fma0 and so on those for fp32, each with a
pair of the backward's; hopper0 and so on are the Hopper path's tiles, each with the backward of its head dims; fused0
and so on are the fused backward's, after the Hopper forward; decode is that path alone. What does not fit the device is
refused, which a campaign counts.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

from harness.recall.faults.planting import pinned
from harness.subject.adapters._conventions import declares
from harness.subject.adapters.kernel_hopper import attention as hopper
from harness.subject.declaration import DECLARATION, Attention
from kernel import flash_attention
from kernel.hopper import backward as hopper_backward
from kernel.hopper import backward_fused
from kernel.hopper.forward import TILES as HOPPER_TILES
from kernel.tiles.space import BACKWARD_KV, BACKWARD_Q, FORWARD

HEAD_DIMS = {64: range(40, 65, 8), 128: range(72, 129, 8), 256: range(136, 257, 8)}
"""What the Hopper path takes, by the head-dim tile that it takes it in."""

FMA_OF_Q = (*BACKWARD_Q.fma[1:], BACKWARD_Q.fma[0])
"""Turned by one, so that the two kernels of the backward are not always at the same tile."""

ORDERED = tuple(dict.fromkeys((*vars(flash_attention)[DECLARATION]["exact"], "deterministic")))
"""What a path promises bit for bit that is not the fused backward: compiled, the function alone promises less."""
UNORDERED = tuple(name for name in vars(hopper)[DECLARATION]["exact"] if name != "deterministic")
"""What the Hopper path promises bit for bit with the fused backward, which sums dQ in no fixed order."""


class Pinned(NamedTuple):
    """A config, the function whose declaration holds for it, and what is declared otherwise."""

    config: str
    like: Attention
    limits: dict[str, Any]

    def subject(self) -> Attention:
        """The function that asks for this config alone."""
        declared = {**vars(self.like)[DECLARATION], **self.limits}
        declared.pop("configs", None)
        return declares(**declared)(pinned(flash_attention, self.config))


def _portable(name: str, forward: Any, of_kv: Any, of_q: Any, *dtypes: str) -> dict[str, Pinned]:
    """One for each tile of either kernel at least: the shorter lists go round."""
    turns = range(max(map(len, (forward, of_kv, of_q))))
    rows = zip(turns, cycle(forward), cycle(of_kv), cycle(of_q), strict=False)
    limits = {"dtypes": dtypes, "exact": ORDERED}
    return {f"{name}{i}": Pinned(f"{tile}/{kv}+{q}", flash_attention, limits) for i, tile, kv, q in rows}


def _of_hopper() -> dict[str, Pinned]:
    found = []
    for d, known in HOPPER_TILES.items():
        halves = [f"hopper:{pair}" for pair in hopper_backward.TILES.get(d, ())] or ["portable"]
        for tile, half in zip(known, cycle(halves), strict=False):
            found.append(Pinned(f"hopper:{tile}/{half}", hopper, {"head_dims": tuple(HEAD_DIMS[d])}))
    return {f"hopper{i}": each for i, each in enumerate(found)}


def _of_fused() -> dict[str, Pinned]:
    known = [(d, tile) for d, of_d in backward_fused.TILES.items() for tile in of_d]
    limits = ({"head_dims": tuple(HEAD_DIMS[d]), "exact": UNORDERED} for d, _ in known)
    return {
        f"fused{i}": Pinned(f"hopper/fused:{tile}", hopper, limit)
        for i, ((_, tile), limit) in enumerate(zip(known, limits, strict=True))
    }


ALL = {
    **_portable("half", FORWARD.tensor_cores, BACKWARD_KV.tensor_cores, BACKWARD_Q.tensor_cores, "fp16", "bf16"),
    **_portable("fma", FORWARD.fma, BACKWARD_KV.fma, FMA_OF_Q, "fp32"),
    **_of_hopper(),
    **_of_fused(),
    "decode": Pinned("decode", flash_attention, {"exact": ORDERED}),
}


def __getattr__(name: str) -> Attention:
    if name not in ALL:
        raise AttributeError(name)
    return ALL[name].subject()


if __name__ == "__main__":
    for name, each in ALL.items():
        print(f"{name:8} {each.config}")
