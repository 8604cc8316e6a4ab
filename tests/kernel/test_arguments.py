"""Bad input: one sentence that names the argument, what came and what is legal."""

import re

import pytest
import torch

from kernel import flash_attention
from kernel.call.arguments import Asked, check_arguments
from kernel.tiles.config import TileConfig

from .tensors import draw

Q, K, V = draw(2, 4, 2, 3, 5, 8)
HALF = torch.float16

BAD = [
    (TypeError, (None, K, V), {}, "q must be a torch.Tensor, got NoneType"),
    (ValueError, (Q.to_sparse(), K, V), {}, "q must be a dense strided tensor, got the layout torch.sparse_coo"),
    (ValueError, (Q[0], K, V), {}, "q must have 4 dimensions (B, H, N, d), got 3 of shape (4, 3, 8)"),
    (ValueError, (Q, K, V[0]), {}, "v must have 4 dimensions (B, H, N, d), got 3 of shape (2, 5, 8)"),
    (TypeError, (Q.double(), K, V), {}, "q must be float16, bfloat16 or float32, got float64"),
    (TypeError, (Q.int(), K, V), {}, "q must be float16, bfloat16 or float32, got int32"),
    (TypeError, (Q, K.to(HALF), V), {}, "k must have q's dtype float32, got float16"),
    (ValueError, (Q, K, V.to("meta")), {}, "v must be on q's device cpu, got meta"),
    (ValueError, (Q, K, V[:, :, :4]), {}, "v must have k's shape (2, 2, 5, 8), got (2, 2, 4, 8)"),
    (ValueError, (Q, K[:1], V[:1]), {}, "k must have q's batch size 2, got 1"),
    (ValueError, (Q[..., :7], K, V), {}, "k must have q's head dim 7, got 8"),
    (ValueError, (Q[..., :0], K[..., :0], V[..., :0]), {}, "q must have a head dim from 1 to 256, got 0"),
    (ValueError, draw(1, 1, 1, 1, 1, 257), {}, "q must have a head dim from 1 to 256, got 257"),
    (ValueError, (Q[:, :3], K, V), {}, "q must have a multiple of k's 2 heads, got 3"),
    (ValueError, (Q, K[:, :0], V[:, :0]), {}, "q must have a multiple of k's 0 heads, got 4"),
    (TypeError, (Q, K, V), {"seqlens_k": [1, 2]}, "seqlens_k must be a torch.Tensor or None, got list"),
    (TypeError, (Q, K, V), {"seqlens_k": torch.ones(2)}, "seqlens_k must be int32 or int64, got float32"),
    (
        ValueError,
        (Q, K, V),
        {"seqlens_k": torch.tensor([1])},
        "seqlens_k must have shape (2,), one length per batch, got (1,)",
    ),
    (
        ValueError,
        (Q, K, V),
        {"seqlens_k": torch.ones(2, dtype=int, device="meta")},
        "seqlens_k must be on q's device cpu",
    ),
    (
        ValueError,
        (Q, K, V),
        {"seqlens_k": torch.tensor([1, 6])},
        "seqlens_k must lie in 0..5 (k's length), got values from 1 to 6",
    ),
    (
        ValueError,
        (Q, K, V),
        {"seqlens_k": torch.tensor([-1, 5])},
        "seqlens_k must lie in 0..5 (k's length), got values from -1 to 5",
    ),
    (
        ValueError,
        (Q, K, V),
        {"causal": "left"},
        'causal must be False, True, "upper_left" or "lower_right", got \'left\'',
    ),
    (TypeError, (Q, K, V), {"causal": 1}, 'causal must be a bool, "upper_left" or "lower_right", got int'),
    (ValueError, (Q, K, V), {"scale": float("nan")}, "scale must be finite in float32, got nan"),
    (ValueError, (Q, K, V), {"scale": -float("inf")}, "scale must be finite in float32, got -inf"),
    (ValueError, (Q, K, V), {"scale": 1e39}, "scale must be finite in float32, got 1e+39"),
    (TypeError, (Q, K, V), {"scale": "1"}, "scale must be a float or None, got str"),
    (TypeError, (Q, K, V), {"scale": True}, "scale must be a float or None, got bool"),
    (TypeError, (Q, K, V), {"config": 64}, "config must be None, a string or a TileConfig, got int"),
    (ValueError, (Q, K, V), {"config": "64x64"}, 'config must be "autotune" or read like "64x64x4x3"'),
    (ValueError, (Q, K, V), {"config": "48x64x4x3"}, "config must have BLOCK_M in (16, 32, 64, 128, 256), got 48"),
    (ValueError, (Q, K, V), {"config": "64x8x4x3"}, "config must have BLOCK_N in (16, 32, 64, 128, 256), got 8"),
    (ValueError, (Q, K, V), {"config": "64x64x3x3"}, "config must have num_warps in (1, 2, 4, 8, 16), got 3"),
    (ValueError, (Q, K, V), {"config": "64x64x4x0"}, "config must have num_stages in 1..8, got 0"),
]


@pytest.mark.parametrize(("error", "tensors", "options", "message"), BAD, ids=[row[3][:60] for row in BAD])
def test_refuses_in_one_sentence(error, tensors, options, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        flash_attention(*tensors, **options)
    assert "\n" not in str(caught.value)


def test_a_checked_problem_says_its_geometry():
    problem = check_arguments(Asked(Q, K, V, True))
    assert (problem.B, problem.Hq, problem.Hk, problem.Nq, problem.Nk, problem.d) == (2, 4, 2, 3, 5, 8)
    assert problem.alignment == "upper_left"
    assert problem.scale == 8**-0.5


def test_a_tile_may_be_pinned_as_an_object(device):
    q, k, v = (x.to(device) for x in (Q, K, V))
    pinned = flash_attention(q, k, v, config=TileConfig(16, 32, 4, 1))
    assert torch.equal(pinned, flash_attention(q, k, v, config="16x32x4x1"))
