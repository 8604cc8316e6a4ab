"""The Hopper backward path: what it takes, what is chosen, and on its device what it computes."""

import dataclasses

import pytest
import torch

from kernel import flash_attention
from kernel.call.launch import INTERPRETED
from kernel.call.problem import BackwardProblem, Problem
from kernel.choose import BACKWARD, backward_half
from kernel.hopper.backward import TILES, HopperBackward, _takes_dO, pairs_of
from kernel.hopper.forward import WORTH_IT, is_masked
from kernel.tiles.config import SHARED_MEMORY

from .contract import CAUSAL, PATHS
from .tensors import draw, same

FORWARD = Problem(
    *(2, 4, 2, 256, 512, 128, None, 0.1, torch.float16, torch.device("cuda", 0)),
    strides=((131072, 32768, 128, 1), (131072, 65536, 128, 1), (131072, 65536, 128, 1)),
    aligned=(True, True, True),
    seqlens_dtype=None,
    seqlens_stride=0,
)
DENSE = (131072, 32768, 128, 1)


def choose_backward(problem, config):
    return BACKWARD.choose(problem, backward_half(problem, config), config)


def problem(dO=DENSE, dO_aligned=True, **changes):
    forward = dataclasses.replace(FORWARD, **changes)
    return BackwardProblem(forward, (True, True, True), dO_aligned, dO, True, DENSE, None)


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    "changes",
    [{}, {"dtype": torch.bfloat16}, {"d": 40}, {"Nq": 1}, {"alignment": "lower_right"}, {"dO": (0, 0, 0, 0)}],
)
def test_what_it_takes(changes):
    assert HopperBackward().refusal(problem(**changes)) is None


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"d": 136}, "the head dim is over 128"),
        ({"d": 100}, "multiple of 8"),
        ({"dtype": torch.float32}, "dtype"),
        ({"Nk": 0}, "no keys"),
        ({"scale": 0.0}, "scale is 0"),
        ({"aligned": (True, False, True)}, "16 bytes"),
    ],
)
def test_what_it_refuses(changes, reason):
    assert reason in HopperBackward().refusal(problem(**changes))


@pytest.mark.usefixtures("_h100")
def test_few_rows_are_refused_unless_it_is_asked_for():
    few = problem(Nq=WORTH_IT - 1)
    assert HopperBackward(WORTH_IT).refusal(few) == f"there are fewer than {WORTH_IT} query rows"
    assert choose_backward(few, None)[0].name == "portable"
    assert choose_backward(few, "hopper")[0].name == choose_backward(few, "/hopper")[0].name == "hopper"


@pytest.mark.usefixtures("_h100")
def test_what_a_config_chooses():
    tile = "64x128x3x1+128x128x2x1"
    assert choose_backward(problem(), None)[0].name == choose_backward(problem(), "hopper")[0].name == "hopper"
    assert choose_backward(problem(), f"/hopper:{tile}")[1] == tile
    assert choose_backward(problem(), "portable")[0].name == "portable"
    assert choose_backward(problem(d=256), "hopper")[0].name == "portable"
    with pytest.raises(NotImplementedError, match="the head dim is over 128"):
        choose_backward(problem(d=256), "/hopper")


@pytest.mark.parametrize(("d", "causal"), [(64, False), (64, True), (128, False), (128, True)])
def test_the_tiles_read_back_and_fit(d, causal):
    known = pairs_of(dataclasses.replace(FORWARD, d=d, alignment="upper_left" if causal else None))
    assert sorted(known) == sorted(TILES[d])
    for tiles in known:
        own = max(tile.own * 2 * 128 * d * 2 + tile.slots * 2 * 128 * d * 2 for tile in tiles)
        assert own <= SHARED_MEMORY[90] + 2 * 64 * d * 2 * tiles.kv.slots
        assert tiles.kv.BLOCK_N == tiles.q.BLOCK_M == 128


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"dO": (131072, 128, 512, 1)}, True),
        ({"dO": (0, 0, 0, 0)}, False),
        ({"dO": (131072, 32768, 132, 1)}, False),
        ({"dO_aligned": False}, False),
        ({"alignment": "lower_right"}, True),
        ({"alignment": "lower_right", "Nq": 513}, False),
        ({"alignment": "lower_right", "seqlens_dtype": torch.int32}, False),
        ({"alignment": "upper_left", "seqlens_dtype": torch.int32}, True),
    ],
)
def test_whether_dO_is_read_as_it_lies(changes, taken):
    assert _takes_dO(problem(**changes)) == taken


@pytest.mark.parametrize(("changes", "masked"), [({}, False), ({"Nk": 500}, True), ({"alignment": "upper_left"}, True)])
def test_what_is_masked(changes, masked):
    forward = dataclasses.replace(FORWARD, **changes)
    assert is_masked(forward, pairs_of(forward)[0].q.BLOCK_N) == masked


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("config", "error", "said"),
    [("64x128", ValueError, "must read like"), ("64x128x9x9+128x128x2x1", NotImplementedError, "must be one of")],
)
def test_tiles_that_there_are_not(config, error, said):
    with pytest.raises(error, match=said):
        HopperBackward().plan(problem(), config)


# On the device


def _is_hopper():
    return torch.cuda.is_available() and not INTERPRETED and torch.cuda.get_device_capability() == (9, 0)


on_device = pytest.mark.skipif(not _is_hopper(), reason="needs a CUDA device of compute capability 9.0")
HOPPER = PATHS["hopper"]


def gradients(q, k, v, dO, dLSE, causal, seqlens_k=None, scale=None, config="hopper"):
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    outputs = flash_attention(*leaves, causal, seqlens_k, scale, return_lse=True, config=config)
    return torch.autograd.grad(outputs, leaves, (dO, dLSE))


@on_device
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [64, 128])
def test_what_nobody_sees_is_never_read(d, causal):
    """Keys past the length or the diagonal, and what comes back to rows that see no key."""
    q, k, v = draw(4, 4, 2, 200, 321, d, torch.bfloat16, "cuda")
    seqlens = torch.tensor([0, 1, 129, 321], device="cuda", dtype=torch.int32)
    dO, dLSE = torch.randn_like(q), torch.randn(q.shape[:3], device="cuda")
    want = gradients(q, k, v, dO, dLSE, causal, seqlens)
    _, lse = flash_attention(q, k, v, causal, seqlens, return_lse=True)
    dO, dLSE = dO.masked_fill((lse == -torch.inf)[..., None], torch.nan), dLSE.masked_fill(lse == -torch.inf, torch.nan)
    for b, n in enumerate(seqlens.tolist()):
        n = min(n, 200) if causal is True else n
        k[b, :, n:] = v[b, :, n:] = torch.nan
    assert same(want, gradients(q, k, v, dO, dLSE, causal, seqlens))


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("d", "tiles"), [(d, tiles) for d, known in TILES.items() for tiles in known])
def test_each_pair_of_tiles(d, tiles, causal):
    dataclasses.replace(HOPPER, config=f"/hopper:{tiles}").attest(
        600, 500, d, "bf16", B=2, Hq=4, Hk=2, causal=causal, scale=-0.2
    )


@on_device
@pytest.mark.parametrize("d", [64, 128])
def test_a_layout_of_dO_gives_the_bits_of_another(d):
    q, k, v = draw(2, 4, 2, 200, 321, d, torch.float16, "cuda")
    dO, dLSE = torch.randn(2, 200, 4, d, device="cuda").half().transpose(1, 2), torch.randn(2, 4, 200, device="cuda")
    ones = torch.ones((), dtype=torch.float16, device="cuda").expand(q.shape)
    for x in (dO, ones):
        pairs = zip(gradients(q, k, v, x, dLSE, True), gradients(q, k, v, x.contiguous(), dLSE, True), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@on_device
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_is_not_wanted_is_not_given(needs):
    q, k, v = draw(1, 2, 1, 200, 300, 64, torch.float16, "cuda")
    leaves = [x.requires_grad_(need) for x, need in zip((q, k, v), needs, strict=True)]
    flash_attention(*leaves, config="hopper").sum().backward()
    assert [x.grad is not None for x in leaves] == list(needs)
