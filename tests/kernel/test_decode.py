"""The path for few query rows: how keys are cut into parts, what it takes and where it is chosen."""

import itertools

import pytest
import torch

from kernel import flash_attention
from kernel.call.arguments import Asked, check_arguments
from kernel.choose import plan_for
from kernel.portable.decode import MOST_ROWS, WORTH_IT, Decode, default_tile, part_of
from kernel.tiles.config import SHARED_MEMORY, Where
from kernel.tiles.space import check_pinned

from .compiled import run_compiled
from .contract import CAUSAL, DTYPES, PATHS
from .tensors import draw


def decoded(q, k, v, causal=False, seqlens_k=None, scale=None, config="decode"):
    return flash_attention(q, k, v, causal, seqlens_k, scale, return_lse=True, config=config)


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_as_they_ship(causal, dtype):
    PATHS["decode"].attest(3, 1100, 24, dtype, B=2, Hq=4, Hk=2, causal=causal, seqlens_k=(1100, 300), scale=-0.3)


def test_as_many_rows_as_it_takes():
    PATHS["decode"].attest(MOST_ROWS, 300, Hq=5, causal="lower_right")


def test_keys_without_a_part_more_give_the_bits_of_one(device):
    """The part that is not there changes nothing: lengths within the first part, and no second one."""
    q, k, v = draw(1, 2, 1, 2, 700, 16, device=device)
    assert part_of(700) == 512
    split = decoded(q, k, v, False, torch.tensor([400], device=device))
    whole = decoded(q, k[:, :, :400], v[:, :, :400])
    assert all(torch.equal(x, y) for x, y in zip(split, whole, strict=True))


def test_parts_are_powers_of_two_and_few():
    parts = {0: 512, 1: 512, 8192: 512, 16384: 512, 16385: 1024, 40000: 2048, 65536: 2048, 10**6: 2048}
    assert {Nk: part_of(Nk) for Nk in parts} == parts
    assert all(-(-Nk // part_of(Nk)) <= 32 for Nk in range(1, 65537, 97))


def test_many_rows_are_refused(device):
    with pytest.raises(
        NotImplementedError, match="config 'decode' does not take this call: there are more than 16 query"
    ):
        decoded(*draw(1, 1, 1, MOST_ROWS + 1, 20, 8, device=device))


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((17, 2048), torch.float16, "there are more than 16 query rows"),
        ((16, 2047), torch.bfloat16, "there are fewer than 2048 keys"),
        ((16, 2048), torch.float32, "it was not timed in float32"),
        ((16, 2048), torch.bfloat16, None),
    ],
)
def test_it_is_chosen_where_it_was_measured_to_be_worth_it(shape, dtype, reason):
    Nq, Nk = shape
    q, k = (torch.empty(1, 2, N, 8, dtype=dtype, device="meta") for N in (Nq, Nk))
    assert Decode(WORTH_IT, fp32=False).refusal(check_arguments(Asked(q, k, k))) == reason


def test_compiled_it_stands_before_the_portable_path():
    done = run_compiled("-c", "from kernel.choose import FORWARD; print(*(path.name for path in FORWARD.paths))")
    assert done.stdout.split() == ["hopper", "decode", "portable"], done.stderr


@pytest.mark.cuda
def test_compiled_it_is_chosen_for_few_rows_and_many_keys(device):
    q, k, v = draw(2, 4, 1, 3, 2100, 64, torch.bfloat16, device)
    assert plan_for(Asked(q, k, v)).path == "decode"
    assert plan_for(Asked(q, k[:, :, :300], v[:, :, :300])).path == "portable"


def test_it_runs_where_it_is_asked_for(device):
    q, k, v = draw(1, 1, 1, 1, 20, 8, device=device)
    assert plan_for(Asked(q, k, v)).path == "portable"
    assert plan_for(Asked(q, k, v, config="decode")).path == "decode"
    assert plan_for(Asked(q, k, v, config="decode:16x32x4x1")).config == "16x32x4x1"


@pytest.mark.parametrize("arch", SHARED_MEMORY)
def test_the_default_tiles_fit(arch):
    for BLOCK_D, dtype in itertools.product((16, 64, 128, 256), DTYPES.values()):
        where = Where(BLOCK_D, dtype, arch)
        check_pinned(default_tile(where), where)
