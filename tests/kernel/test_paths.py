"""Plans: kept under all that they were made of, by the path that was asked for or the first that takes the call."""

import gc
import itertools
import logging
import random
import weakref

import pytest
import torch

from kernel import choose, flash_attention
from kernel.call.arguments import Asked, as_values
from kernel.call.plan import Plan
from kernel.choose import BACKWARD, FORWARD, MOST_PLANS, plan_of
from kernel.tiles.config import TileConfig

from .tensors import draw

SMALL = "16x16x4x1"


def plan_for(*arguments, **options):
    return choose.plan_for(Asked(*arguments, **options))


class Picky:
    """A path that takes d = 16 alone and answers with ones."""

    name = "picky"

    def refusal(self, problem):
        return None if problem.d == 16 else f"the head dim must be 16, it is {problem.d}"

    def configs(self, problem):
        return ("only",)

    def plan(self, problem, config=None):
        if config not in (None, "only"):
            raise ValueError(f"config must be picky:only, got {config!r}")

        def launch(q, k, v, o, lse, seqlens_k):
            o.fill_(1.0)
            lse.fill_(1.0)

        return Plan(self.name, "only", launch)


@pytest.fixture
def _picky(monkeypatch):
    """Picky stands before the portable path, and no plan or message is kept from before."""
    monkeypatch.setattr(FORWARD, "paths", (Picky(), FORWARD.paths[-1]))
    plan_of.cache_clear()
    choose._log_refusal.cache_clear()
    yield
    plan_of.cache_clear()


def calls(device):
    """Arguments of calls that differ in one thing or a few, right and wrong ones."""
    tensors = draw(2, 4, 2, 17, 33, 16, torch.float16, device)
    q, k, v = tensors
    lengths = torch.tensor([5, 33], device=device)
    shifted = torch.cat([q.flatten(), q.flatten()])[1 : 1 + q.numel()].view(q.shape)
    wrong = [(q.double(), k, v), (q, k[:1], v), (q[0], k, v), (q, k, v[..., :8])]
    right = [
        tensors,
        draw(2, 4, 2, 17, 33, 16, torch.float32, device),
        draw(2, 4, 2, 17, 33, 16, torch.bfloat16, device),
        (q[:, :2], k, v),
        (q[:, :2], k[:, :1], v[:, :1]),
        (q[..., :15], k[..., :15], v[..., :15]),
        (q, k[:, :, :32], v[:, :, :32]),
        (q[:, :, 1:], k, v),
        (q.transpose(1, 2).contiguous().transpose(1, 2), k, v),
        (q, k.transpose(2, 3).contiguous().transpose(2, 3), v),
        (q, k, v[:, :, :1].expand_as(v)),
        (shifted, k, v),
        (q[:0], k[:0], v[:0]),
    ]
    options = {
        "causal": (False, True, 1, 0, "upper_left", "lower_right", []),
        "seqlens_k": (None, lengths, lengths.int(), lengths[:1].expand(2), lengths[:1]),
        "scale": (None, 0.25, 1, 1.0, True, -1.0, 0.0),
        "config": (None, SMALL, TileConfig.parse(SMALL), "32x16x4x1", "portable", "autotune", 1, [], "64x64"),
    }
    names = list(options)
    for some in (*right, *wrong):
        yield from ((some, {name: value}) for name in names for value in options[name])
    for values in itertools.product(*options.values()):
        yield tensors, dict(zip(names, values, strict=True))


def outcome(tensors, options):
    """What a call gives, by bits, or the error that it raises."""
    try:
        return [x.view(torch.uint8) for x in flash_attention(*tensors, **options, return_lse=True)]
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def equal(one, other):
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def cached_and_fresh(some):
    """Each call's outcome after those before it, and with nothing kept."""
    plan_of.cache_clear()
    after = [outcome(*call) for call in some]
    for call, got in zip(some, after, strict=True):
        plan_of.cache_clear()
        yield call, got, outcome(*call)


@pytest.mark.parametrize("seed", range(4))
def test_a_kept_plan_gives_what_a_fresh_one_gives(seed, device):
    """Random sequences of calls, each of them twice and beside calls that differ from it in one thing."""
    some = random.Random(seed).choices(list(calls(device)), k=70) * 2
    assert all(equal(got, want) for _, got, want in cached_and_fresh(some))


def swapped(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


LENGTHS = torch.tensor([5, 33])
# For each value that a plan is kept under, two calls that differ in it alone, as changes of one call.
PAIRS = [
    ({"q": lambda q: q}, {"q": swapped}),
    ({"k": lambda k: k}, {"k": swapped}),
    ({"v": lambda v: v}, {"v": swapped}),
    ({}, {"seqlens_k": LENGTHS}),
    ({"causal": False}, {"causal": True}),
    ({"causal": True}, {"causal": 1}),
    ({"scale": 0.25}, {"scale": 0.5}),
    ({"scale": 1.0}, {"scale": True}),
    ({"config": SMALL}, {"config": "64x64"}),
]


@pytest.mark.parametrize(("place", "pair"), list(enumerate(PAIRS)), ids=lambda x: str(x) if isinstance(x, int) else "")
def test_a_key_without_one_of_its_values_is_stale(place, pair, device, monkeypatch):
    """So none of them can be spared, and the test above would tell."""
    full, kept = plan_of.__wrapped__, {}

    def forgetful(values):
        key = values[:place] + values[place + 1 :]
        if key not in kept:
            kept[key] = full(values)
        return kept[key]

    q, k, v = draw(2, 2, 2, 17, 33, 16, torch.float16, device)
    some = []
    for change in pair:
        options = {name: x.to(device) if torch.is_tensor(x) else x for name, x in change.items() if name not in "qkv"}
        tensors = [change.get(name, lambda x: x)(x) for name, x in (("q", q), ("k", k), ("v", v))]
        some.append((tensors, options))
    assert all(equal(got, want) for _, got, want in cached_and_fresh(some))
    monkeypatch.setattr(choose, "plan_of", forgetful)
    forgetful.cache_clear, forgetful.__wrapped__ = kept.clear, full
    monkeypatch.setitem(globals(), "plan_of", forgetful)
    assert not all(equal(got, want) for _, got, want in cached_and_fresh(some))


def test_every_value_of_the_key_has_a_pair():
    assert len(PAIRS) == len(as_values(Asked(*draw(1, 1, 1, 1, 1, 1))))


def test_the_same_call_twice_makes_one_plan(device):
    q, k, v = draw(1, 1, 1, 3, 5, 8, device=device)
    assert plan_for(q, k, v, True) is plan_for(q.clone(), k, v, True)
    assert plan_for(q, k, v, True) is not plan_for(q, k, v, False)


def test_plans_are_bounded(device):
    q, k, v = draw(1, 1, 1, 1, 1, 1, device=device)
    for i in range(MOST_PLANS + 10):
        plan_for(q, k, v, scale=1.0 + i)
    assert plan_of.cache_info().currsize == MOST_PLANS


def test_a_plan_keeps_no_tensor(device):
    q, k, v = draw(1, 1, 1, 3, 5, 8, device=device)
    flash_attention(q, k, v)
    alive = [weakref.ref(x) for x in (q, k, v)]
    del q, k, v
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


@pytest.mark.usefixtures("_picky")
def test_the_first_path_that_takes_a_call_runs_it(device):
    assert (flash_attention(*draw(1, 1, 1, 3, 5, 16, device=device)) == 1).all()
    assert not (flash_attention(*draw(1, 1, 1, 3, 5, 8, device=device)) == 1).all()


@pytest.mark.usefixtures("_picky")
def test_a_path_may_be_pinned_and_its_tile(device):
    q, k, v = draw(1, 1, 1, 3, 5, 16, device=device)
    assert (flash_attention(q, k, v, config="picky") == 1).all()
    assert (flash_attention(q, k, v, config="picky:only") == 1).all()
    want = flash_attention(q, k, v, config=SMALL)
    assert not (want == 1).any()
    assert torch.equal(flash_attention(q, k, v, config=f"portable:{SMALL}"), want)
    assert plan_for(q, k, v, config="portable").path == "portable"
    with pytest.raises(ValueError, match="config must be picky:only, got 'odd'"):
        flash_attention(q, k, v, config="picky:odd")


@pytest.mark.usefixtures("_picky")
def test_a_pinned_path_that_refuses_says_why(device):
    with pytest.raises(NotImplementedError, match="config 'picky' does not take this call: the head dim must be 16"):
        flash_attention(*draw(1, 1, 1, 3, 5, 8, device=device), config="picky")


@pytest.mark.usefixtures("_picky")
def test_each_reason_is_logged_once(device, caplog):
    caplog.set_level(logging.INFO, "flashattest.kernel")
    for Nq, d in ((3, 8), (4, 8), (3, 9), (3, 16)):
        flash_attention(*draw(1, 1, 1, Nq, 5, d, device=device))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the picky path does not take some calls: the head dim must be 16, it is 8",
        "the picky path does not take some calls: the head dim must be 16, it is 9",
    ]


def test_a_path_that_does_not_exist_is_no_config(device):
    with pytest.raises(ValueError, match="name a path, such as \"portable\", got 'nowhere'"):
        flash_attention(*draw(1, 1, 1, 3, 5, 8, device=device), config="nowhere")


@pytest.mark.parametrize("choice", [FORWARD, BACKWARD])
def test_the_last_path_refuses_nothing(choice):
    assert choice.paths[-1].name == "portable"


def test_a_cpu_needs_the_interpreter(monkeypatch):
    monkeypatch.setattr(choose, "INTERPRETED", False)
    plan_of.cache_clear()
    with pytest.raises(ValueError, match="q must be on a CUDA device, got cpu"):
        flash_attention(*draw(1, 1, 1, 3, 5, 8))
