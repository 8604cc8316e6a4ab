"""Few query rows: every small box against float64, and bits that hang on nothing beside a row."""

import itertools

import pytest
import torch

from kernel import flash_attention
from kernel.call.arguments import Asked, check_arguments
from kernel.call.launch import INTERPRETED
from kernel.choose import plan_for, plan_of
from kernel.portable import decode
from kernel.portable.decode import MOST_ROWS, WORTH_IT, Decode, default_tile, part_of
from kernel.tiles.config import SHARED_MEMORY, TileConfig, Where
from kernel.tiles.space import check_pinned

from .compiled import run_compiled
from .reference import assert_close, draw

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
CAUSAL = (False, True, "lower_right")


def decoded(q, k, v, causal=False, seqlens_k=None, scale=None, config="decode"):
    return flash_attention(q, k, v, causal, seqlens_k, scale, return_lse=True, config=config)


def check(q, k, v, causal=False, seqlens_k=None, scale=None, config="decode"):
    assert_close(*decoded(q, k, v, causal, seqlens_k, scale, config), q, k, v, causal, seqlens_k, scale)


PART = 32 if INTERPRETED else 128


@pytest.fixture
def _short_parts(monkeypatch):
    """Parts of two tiles, of four where tiles of 32 ship: a part is whole tiles, and small problems have several."""
    monkeypatch.setattr(decode, "part_of", lambda Nk: PART)
    monkeypatch.setattr(decode, "INTERPRETER_TILE", TileConfig(16, 16, 4, 1))
    plan_of.cache_clear()
    yield
    plan_of.cache_clear()


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("Nq", [1, 2, 3, 5])
@pytest.mark.parametrize("Nk", [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65])
@pytest.mark.usefixtures("_short_parts")
def test_every_small_box(Nq, Nk, causal, device):
    lengths = sorted({0, 1, Nk // 2, max(Nk - 1, 0), Nk} & set(range(Nk + 1)))
    q, k, v = draw(len(lengths), 2, 1, Nq, Nk, 3, device=device)
    check(q, k, v, causal, torch.tensor(lengths, device=device))


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize(("Hq", "Hk"), [(1, 1), (5, 1), (6, 2), (20, 1), (8, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("_short_parts")
def test_groups_share_tiles(Hq, Hk, causal, dtype, device):
    Nk = 2 * PART + 13
    check(*draw(1, Hq, Hk, 1, Nk, 8, dtype, device), causal)
    check(*draw(1, Hq, Hk, 7, Nk, 8, dtype, device), causal)


def test_as_many_rows_as_it_takes(device):
    check(*draw(1, 5, 1, MOST_ROWS, 300, 8, device=device), "lower_right")


@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_as_they_ship(causal, dtype, device):
    q, k, v = draw(2, 4, 2, 3, 1100, 24, dtype, device)
    check(q, k, v, causal, torch.tensor([1100, 300], device=device), scale=-0.3)


@pytest.mark.parametrize("d", [1, 15, 16, 17, 72, 128, 200, 256])
def test_any_head_dim(d, device):
    check(*draw(1, 2, 1, 2, 300, d, torch.bfloat16, device))


@pytest.mark.parametrize("causal", [False, "lower_right"])
@pytest.mark.usefixtures("_short_parts")
def test_any_layout_gives_the_bits_of_contiguous_tensors(causal, device):
    q, k, v = draw(2, 4, 2, 3, 77, 16, torch.float16, device)
    layouts = (lambda x: x.transpose(1, 2).contiguous().transpose(1, 2), lambda x: x.mT.contiguous().mT)
    want = decoded(q, k, v, causal)
    for layout in layouts:
        got = decoded(*(layout(x) for x in (q, k, v)), causal)
        assert all(torch.equal(x, y) for x, y in zip(want, got, strict=True))


@pytest.mark.parametrize(("dtype", "causal"), list(itertools.product(DTYPES, CAUSAL)))
@pytest.mark.usefixtures("_short_parts")
def test_a_row_gives_the_same_bits_alone_and_without_its_group(dtype, causal, device):
    q, k, v = draw(3, 6, 2, 3, 77, 16, dtype, device)
    want = decoded(q, k, v, causal)
    alone = [decoded(q[b : b + 1], k[b : b + 1], v[b : b + 1], causal) for b in range(3)]
    repeated = decoded(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), causal)
    for i in range(2):
        assert torch.equal(torch.cat([x[i] for x in alone]), want[i])
        assert torch.equal(repeated[i], want[i])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.usefixtures("_short_parts")
def test_keys_past_the_length_never_matter(poison, device):
    q, k, v = draw(3, 2, 1, 2, 90, 8, torch.float16, device)
    lengths = torch.tensor([0, 33, 64], device=device)
    want = decoded(q, k, v, True, lengths)
    for b, n in enumerate(lengths.tolist()):
        k[b, :, n:], v[b, :, n:] = poison, poison
    assert all(torch.equal(x, y) for x, y in zip(want, decoded(q, k, v, True, lengths), strict=True))


@pytest.mark.usefixtures("_short_parts")
def test_more_parts_than_one_step_merges(device):
    check(*draw(1, 2, 1, 1, 32 * 17 + 5, 8, device=device))


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
    check(q, k, v, config=None)
    assert plan_for(Asked(q, k[:, :, :300], v[:, :, :300])).path == "portable"


def test_it_runs_where_it_is_asked_for(device):
    q, k, v = draw(1, 1, 1, 1, 20, 8, device=device)
    assert plan_for(Asked(q, k, v)).path == "portable"
    assert plan_for(Asked(q, k, v, config="decode")).path == "decode"
    assert plan_for(Asked(q, k, v, config="decode:16x32x4x1")).config == "16x32x4x1"


@pytest.mark.parametrize("arch", SHARED_MEMORY)
def test_the_default_tiles_fit(arch):
    for BLOCK_D, dtype in itertools.product((16, 64, 128, 256), DTYPES):
        where = Where(BLOCK_D, dtype, arch)
        check_pinned(default_tile(where), where)
