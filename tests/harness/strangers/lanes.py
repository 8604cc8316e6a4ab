"""Lanes of V that are masked without `other` meet weights that are 0: right where they hold 0, as nothing promises."""

import torch

from tests.harness.strangers.kernel import grid, one_row, operands


def leaves_lanes(q, k, v):
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    one_row[grid(q)](*operands(q, k, v, o), BLOCK_N=16, BLOCK_D=64, FORGETS_TAIL=False, LEAVES_LANES=True)
    return o


def says_so(q, k, v):
    return leaves_lanes(q, k, v)


leaves_lanes.__flashattest__ = {"max_head_dim": 64}
says_so.__flashattest__ = {"max_head_dim": 64, "masked_lanes": "zero"}
