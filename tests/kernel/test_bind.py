"""What the portable kernels are launched with: the fast path, wide offsets, the grid, and heads that share a cache."""

import torch

from kernel.call.arguments import as_call, check
from kernel.portable.backward import kv_section
from kernel.portable.bind import grid, is_fast
from kernel.portable.forward import section


def test_the_fast_path_needs_aligned_rows():
    def fast(d=64, aligned=True, strides=(512, 256, 64, 1)):
        return is_fast(torch.float16, d, (True, aligned), ((512, 256, 64, 1), strides))

    assert fast()
    assert not fast(aligned=False)
    assert not fast(strides=(512, 256, 68, 1))
    assert not fast(strides=(512, 256, 64, 2))
    assert not fast(d=60)


def test_the_grid_has_one_dimension_past_65535():
    assert grid(70_000, 130, 64) == (210_000,)
    assert grid(3, 64, 64) == (3,)


def problem(Hq, Hk, Nq, Nk, causal):
    """Of a call on tensors without memory, of batch size 4 and d 64 in fp16."""
    shapes = ((4, Hq, Nq, 64), (4, Hk, Nk, 64), (4, Hk, Nk, 64))
    tensors = (torch.empty(shape, dtype=torch.half, device="meta") for shape in shapes)
    of = [(x.shape, x.stride(), x.dtype, x.device, x.layout, True) for x in tensors]
    return check(as_call((*of, None, causal, bool, None, type(None), None)))


def test_heads_side_by_side_fit_the_cache():
    assert section(problem(8, 2, 16, 16, False)) == 4
    assert section(problem(8, 2, 16, 65536, True)) == 4 * 2
    assert section(problem(8, 2, 16, 16, True)) == 4 * 8
    assert kv_section(problem(8, 8, 16, 16, False)) == 1
    assert kv_section(problem(8, 8, 65536, 16, True)) == 2
