"""Plans of the backward pass: which path and tile `config` asks for, and that a kept plan is never a stale one."""

import logging

import pytest
import torch

from kernel import choose, flash_attention
from kernel.call.arguments import DTYPES, Asked, Saved, as_backward_values, check_backward
from kernel.call.plan import Plan
from kernel.choose import BACKWARD, backward_plan_of
from kernel.eager import flash_attn_backward
from kernel.tiles.config import SHARED_MEMORY, BackwardTiles, TileConfig, Where
from kernel.tiles.defaults import BACKWARD_TABLE, default_pair, row_of
from kernel.tiles.space import BACKWARD_KV, BACKWARD_Q, fitting_pairs, pair_fits
from kernel.tiles.tuning import TUNED, bucket_of, tuned_plan

from .tensors import cotangents, differentiate, draw, same, transposed

HEAD_TILES = (16, 32, 64, 128, 256)
SMALL = "16x16x4x1"


class Picky:
    """A backward path that takes d = 16 alone and answers with ones."""

    name = "picky"

    def refusal(self, problem):
        return None if problem.forward.d == 16 else f"the head dim must be 16, it is {problem.forward.d}"

    def configs(self, problem):
        return ("only",)

    def plan(self, problem, config=None):
        def launch(q, k, v, o, lse, dO, dLSE, seqlens_k, *grads):
            for grad in grads:
                grad.fill_(1.0)

        return Plan(self.name, "only", launch)


@pytest.fixture(autouse=True)
def _no_plan_is_kept():
    backward_plan_of.cache_clear()
    choose._log_refusal.cache_clear()
    yield
    backward_plan_of.cache_clear()


@pytest.fixture
def _picky(monkeypatch):
    monkeypatch.setattr(BACKWARD, "paths", (Picky(), BACKWARD.paths[-1]))


def gradients(config=None, d=16, device="cpu"):
    q, k, v = draw(1, 1, 1, 40, 40, d, device=device)
    return differentiate(q, k, v, *cotangents(q), True, config=config)


def values(config=None, dtype=torch.float32, device="cpu", needs=(True, True, True), change=lambda x: x, d=16, **asked):
    q, k, v = draw(2, 2, 1, 17, 33, d, dtype, device)
    dO, dLSE = cotangents(q)
    o, lse = flash_attention(q, k, v, return_lse=True)
    return as_backward_values(Asked(q, k, v, config=config, **asked), Saved(change(dO), dLSE, o, lse, needs))


def problem(**options):
    return check_backward(values(**options))


def is_ones(grads):
    return all((x == 1).all() for x in grads)


@pytest.mark.usefixtures("_picky")
@pytest.mark.parametrize(
    ("config", "d", "picked"),
    [
        (None, 16, True),
        (None, 8, False),
        ("portable", 16, False),
        (SMALL, 16, False),
        ("portable/picky", 16, True),
        ("/picky:only", 16, True),
        ("/portable", 16, False),
        (f"/{SMALL}", 16, False),
        (f"autotune/{SMALL}", 16, False),
    ],
)
def test_which_path_runs(config, d, picked, device):
    assert is_ones(gradients(config, d, device)) == picked


@pytest.mark.usefixtures("_picky")
def test_a_pinned_path_that_refuses_says_why(device):
    with pytest.raises(NotImplementedError, match="config '/picky' does not take this call's backward: the head dim"):
        gradients("/picky", 8, device)


@pytest.mark.usefixtures("_picky")
def test_each_reason_is_logged_once(device, caplog):
    caplog.set_level(logging.INFO, "flashattest.kernel")
    for _ in range(2):
        gradients(None, 8, device)
        backward_plan_of.cache_clear()
    said = [record.getMessage() for record in caplog.records if "picky" in record.getMessage()]
    assert said == ["the picky backward path does not take some calls: the head dim must be 16, it is 8"]


@pytest.mark.parametrize(
    ("config", "tiles"),
    [
        (None, "64x64x4x1+64x64x4x1"),
        ("portable", "64x64x4x1+64x64x4x1"),
        ("32x16x4x2", "32x16x4x1+32x16x4x1"),
        (TileConfig(32, 16, 4, 2), "32x16x4x1+32x16x4x1"),
        ("32x16x4x2/16x32x4x1+64x16x8x1", "16x32x4x1+64x16x8x1"),
        ("/portable:16x32x4x1", "16x32x4x1+16x32x4x1"),
    ],
)
def test_which_tile_the_interpreter_runs(config, tiles, device):
    if device.type == "cpu":
        plan = backward_plan_of(values(config))
        assert (plan.path, plan.config) == ("portable", tiles)


@pytest.mark.parametrize("half", ["nowhere", "64x64", "", "48x64x4x1"])
def test_a_second_half_that_cannot_be_read_is_refused_by_the_forward_call(half, device):
    q, k, v = (x.requires_grad_() for x in draw(1, 1, 1, 3, 5, 8, device=device))
    with pytest.raises(ValueError, match="config must"):
        flash_attention(q, k, v, config=f"portable/{half}")


# Pairs of calls that differ in one thing that a plan depends on.
PAIRS = [
    ({}, {"config": "16x32x4x1"}),
    ({}, {"needs": (True, False, True)}),
    ({}, {"change": transposed}),
    ({}, {"dtype": torch.float16}),
    ({}, {"d": 15}),
    ({}, {"deterministic": True}),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_calls_that_differ_have_plans_of_their_own(pair, device):
    one, other = (values(device=device, **options) for options in pair)
    assert backward_plan_of(one) is backward_plan_of(values(device=device, **pair[0]))
    assert backward_plan_of(one) is not backward_plan_of(other)


def test_a_kept_plan_gives_what_a_fresh_one_gives(device):
    q, k, v = draw(2, 2, 1, 17, 33, 16, torch.float16, device)
    dO, dLSE = cotangents(q)
    shifted = torch.cat([dO.flatten(), dO.flatten()])[1 : 1 + dO.numel()].view(dO.shape)
    one = dO.new_ones(()).expand(dO.shape)
    some = [(x, y, needs) for x in (dO, transposed(dO), shifted, one, None) for y in (dLSE, None) for needs in
            ((True, True, True), (False, True, False)) if x is not None or y is not None]  # fmt: skip
    o, lse = flash_attention(q, k, v, True, return_lse=True)

    def run(x, y, needs):
        return flash_attn_backward(x, y, Asked(q, k, v, True, config=SMALL), o, lse, needs)

    kept = [run(*call) for _ in range(2) for call in some]
    for call, got in zip(some * 2, kept, strict=True):
        backward_plan_of.cache_clear()
        assert same(got, run(*call))


class Toy(Picky):
    """A path whose tiles are the milliseconds that they take."""

    name, ran = "toy", ()

    def configs(self, problem):
        return ("2", "1", "3")

    def plan(self, problem, config=None):
        def launch(*tensors):
            self.ran = (*self.ran, config)

        return Plan(self.name, config, launch)


def test_autotuning_measures_a_backward_bucket_once(device, monkeypatch):
    monkeypatch.setattr("kernel.tiles.tuning.TUNED", {})
    toy, asked = Toy(), problem(device=device)
    plan = tuned_plan(asked, [toy], lambda call: call() or float(toy.ran[-1]))
    plan.launch()
    plan.launch()
    assert toy.ran == ("2", "1", "3", "1", "1")


def test_a_backward_bucket_is_no_forward_bucket(device):
    whole, part = problem(device=device), problem(device=device, needs=(False, True, True))
    turned = problem(device=device, change=transposed)
    buckets = {bucket_of(x, [Toy()]) for x in (whole, part, whole.forward, turned)}
    assert {bucket.paths for bucket in buckets} == {"dQ dK dV: toy", "dK dV: toy", "toy"}


def test_the_interpreter_has_nothing_to_tune(device):
    before = dict(TUNED)
    if device.type == "cpu":
        gradients("autotune", 16, device)
        assert before == TUNED


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("BLOCK_D", HEAD_TILES)
def test_what_autotuning_tries_fits(BLOCK_D, dtype, arch):
    where = Where(BLOCK_D, dtype, arch)
    tried = fitting_pairs(where)
    assert 1 <= len(tried) <= 60
    assert all(pair_fits(tiles, where) for tiles in (*tried, default_pair(where, True)))


# What the compiler said, by `python -m kernel.tools.resources`.
@pytest.mark.parametrize(
    ("tiles", "BLOCK_D", "arch", "kv", "q"),
    [
        ("32x64x4x2+128x64x8x2", 64, 80, 26624, 49152),
        ("64x64x8x1+64x64x8x1", 128, 89, 81920, 65536),
        ("32x32x8x1+64x32x8x1", 256, 80, 81920, 98304),
        ("64x128x8x2+128x128x8x2", 64, 90, 66048, 98304),
        ("64x128x8x2+128x64x8x2", 128, 90, 131584, 131072),
        ("64x128x8x2+128x128x8x2", 64, 100, 82496, 114736),
    ],
)
def test_the_estimate_of_shared_memory_is_what_was_compiled_or_a_little_more(tiles, BLOCK_D, arch, kv, q):
    tiles = BackwardTiles.parse(tiles)
    where = Where(BLOCK_D, torch.float16, arch)
    of_kv, of_q = BACKWARD_KV.shared_memory(tiles.kv, where), BACKWARD_Q.shared_memory(tiles.q, where)
    assert kv <= of_kv <= kv + 8192
    assert q <= of_q <= q + 8192


def test_every_row_of_the_defaults_is_used():
    problems = (Where(d, dtype, arch) for d in HEAD_TILES for dtype in DTYPES.values() for arch in SHARED_MEMORY)
    used = {row_of(BACKWARD_TABLE, where, causal) for where in problems for causal in (False, True)}
    assert used == set(BACKWARD_TABLE)


def test_text_and_tiles_are_the_same():
    tiles = default_pair(Where(128, torch.float16, 90), True)
    assert BackwardTiles.parse(str(tiles)) == tiles
    assert BackwardTiles.parse("64x32x4x1") == BackwardTiles(TileConfig(64, 32, 4, 1), TileConfig(64, 32, 4, 1))
