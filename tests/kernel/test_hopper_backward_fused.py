"""The fused Hopper backward path: what it takes, when it is chosen, what is compiled and, on its device, computed."""

import dataclasses

import pytest
import torch

from kernel import backward, flash_attention
from kernel.backward_arguments import as_backward_values, check_backward
from kernel.backward_paths import choose_backward
from kernel.flash_attn_backward_sum_triton import _scale_dq
from kernel.flash_attn_triton import INTERPRETED
from kernel.hopper import WORTH_IT
from kernel.hopper_backward_fused import LEAST_KEYS, TILES, FusedBackward, constexprs_of, tiles_of
from kernel.portable_backward import delta_launch
from kernel.tiles import SHARED_MEMORY, block_d

from .compiled import run_compiled
from .reference import draw, visible_keys
from .test_hopper_backward import BOXES, gradients, on_device, problem, truth


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": torch.bfloat16},
        {"d": 40},
        {"d": 256},
        {"Nq": 1},
        {"alignment": "lower_right"},
        {"dO": (0, 0, 0, 0)},
    ],
)
def test_what_it_takes(changes):
    assert FusedBackward().refusal(problem(**changes)) is None


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"d": 100}, "multiple of 8"),
        ({"dtype": torch.float32}, "dtype"),
        ({"Nk": 0}, "no keys"),
        ({"scale": 0.0}, "scale is 0"),
        ({"aligned": (True, False, True)}, "16 bytes"),
    ],
)
def test_what_it_refuses(changes, reason):
    assert reason in FusedBackward().refusal(problem(**changes))


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"deterministic": True}, "the same bits"), ({"needs": (True, True, False)}, "not all three gradients")],
)
def test_what_it_refuses_of_the_backward_call(changes, reason):
    asked = dataclasses.replace(problem(Nk=4096), **changes)
    assert reason in FusedBackward().refusal(asked)
    assert choose_backward(asked, None)[0].name == "hopper"
    with pytest.raises(NotImplementedError, match=reason):
        choose_backward(asked, "/fused")


@pytest.mark.usefixtures("_h100")
def test_few_rows_are_refused_unless_it_is_asked_for():
    few = problem(Nq=WORTH_IT - 1, Nk=4096)
    assert FusedBackward(WORTH_IT).refusal(few) == f"there are fewer than {WORTH_IT} query rows"
    assert choose_backward(few, "/fused")[0].name == "fused"


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize("alignment", [None, "upper_left"])
@pytest.mark.parametrize("d", [64, 128])
def test_few_keys_are_refused_unless_it_is_asked_for(d, alignment):
    least = LEAST_KEYS[d] * (2 if alignment else 1)
    enough, few = (problem(d=d, Nk=Nk, alignment=alignment) for Nk in (least, least - 1))
    assert choose_backward(enough, None)[0].name == choose_backward(few, "/fused")[0].name == "fused"
    assert choose_backward(few, None)[0].name == "hopper"
    assert FusedBackward(WORTH_IT).refusal(few) == "a row sees too few keys"


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(("d", "other"), [(64, "hopper"), (128, "hopper"), (256, "portable")])
def test_what_a_config_chooses(d, other):
    many = problem(d=d, Nk=4096)
    tile = str(TILES[d][0])
    assert choose_backward(many, None)[0].name == choose_backward(many, "hopper/fused")[0].name == "fused"
    assert choose_backward(many, f"/fused:{tile}")[1] == tile
    assert choose_backward(many, "hopper")[0].name == other
    assert choose_backward(many, "portable")[0].name == "portable"


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("config", "error", "said"),
    [("64x128", ValueError, "must read like"), ("64x128x9x9", NotImplementedError, "must be one of 64x128x2x1")],
)
def test_tiles_that_there_are_not(config, error, said):
    with pytest.raises(error, match=said):
        FusedBackward().plan(problem(), config)


@pytest.mark.parametrize("d", [40, 64, 80, 128, 136, 256])
def test_the_tiles_fit(d):
    (tile,) = tiles_of(dataclasses.replace(problem().forward, d=d))
    width = max(64, 1 << (d - 1).bit_length())
    own = tile.own * 2 * tile.BLOCK_N * width * 2 + tile.slots * 2 * tile.BLOCK_M * width * 2
    assert own <= SHARED_MEMORY[90]
    assert tile.BLOCK_M == 64
    assert constexprs_of(width, tile)["SLOTS"] == tile.slots


COMPILE = """
import re
from kernel.hopper_ahead import AVAILABLE, VARIANTS, compile_hopper_fused
from kernel.hopper_backward_fused import TILES
for d in TILES if AVAILABLE else ():
    ptx = compile_hopper_fused(TILES[d][0], d, "bf16", VARIANTS[0]).asm["ptx"]
    added = re.search("cp.reduce.async.bulk.tensor", ptx), re.search(r"add(.noftz)?.v4.f32", ptx)
    print(d, "wgmma.mma_async" in ptx, *(x is not None for x in added))
"""


def test_dq_is_added_by_tma_or_four_numbers_at_a_time():
    done = run_compiled("-c", COMPILE)
    assert done.returncode == 0, done.stderr
    expected = ["64 True True False", "128 True True False", "256 True False True"]
    assert done.stdout.split("\n")[:3] in (expected, [""])


# On the device


def check(q, k, v, causal, seqlens_k=None, scale=None, config="hopper/fused"):
    """Within a few roundings of the largest gradient, dK and dV the same bits twice; NaN where nobody looks."""
    dO, dLSE = torch.randn_like(q), torch.randn(q.shape[:3], device=q.device)
    sees = visible_keys(q.shape[0], q.shape[2], k.shape[2], causal, seqlens_k).to(q.device).any(-1)
    dO, dLSE = dO.masked_fill(~sees[..., None], torch.nan), dLSE.masked_fill(~sees, torch.nan)
    got = gradients(q, k, v, dO, dLSE, causal, seqlens_k, scale, config)
    again = gradients(q, k, v, dO, dLSE, causal, seqlens_k, scale, config)
    for x, want in zip(got, truth(q, k, v, dO, dLSE, causal, seqlens_k, scale), strict=True):
        u = torch.finfo(q.dtype).eps
        torch.testing.assert_close(x.double(), want, rtol=0, atol=4 * u * float(want.abs().max()) + u / 16)
    assert all(torch.equal(x, y) for x, y in zip(got[1:], again[1:], strict=True))


@on_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize("d", [40, 64, 80, 128, 136, 256])
def test_it_agrees_with_float64(d, causal, dtype):
    for seed, box in enumerate(BOXES):
        check(*draw(*box, d, dtype, "cuda", seed), causal)


@on_device
@pytest.mark.parametrize("causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_what_lies_behind_the_lengths_is_never_read(d, causal):
    q, k, v = draw(4, 4, 2, 200, 321, d, torch.bfloat16, "cuda")
    lengths = torch.tensor([0, 1, 129, 321], device="cuda", dtype=torch.int32)
    for b, n in enumerate(lengths.tolist()):
        k[b, :, n:] = v[b, :, n:] = torch.nan
    check(q, k, v, causal, lengths)


@on_device
@pytest.mark.parametrize("d", [64, 128, 256])
def test_keys_past_the_diagonal_are_never_read(d):
    q, k, v = draw(2, 4, 2, 70, 200, d, torch.bfloat16, "cuda")
    k[:, :, 70:] = v[:, :, 70:] = torch.nan
    check(q, k, v, "upper_left")


@on_device
@pytest.mark.parametrize("scale", [-0.2, 1e-3])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_a_scale_of_ones_own(d, scale):
    check(*draw(1, 2, 1, 321, 257, d, torch.float16, "cuda"), True, scale=scale)


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_more_key_tiles_than_programs(d, causal):
    check(*draw(3, 12, 12, 500, 900, d, torch.bfloat16, "cuda"), causal)


@on_device
@pytest.mark.parametrize("d", [64, 128, 256])
def test_the_same_bits_each_time_where_they_are_asked_for(d):
    leaves = [x.requires_grad_() for x in draw(1, 4, 4, 1100, 1100, d, torch.bfloat16, "cuda")]

    def run():
        return torch.autograd.grad(flash_attention(*leaves, deterministic=True).sum(), leaves)

    want = run()
    assert all(torch.equal(x, y) for _ in range(5) for x, y in zip(run(), want, strict=True))


# What is said about determinism


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize("keyword", [False, True])
def test_who_asks_for_the_same_bits_is_heard(keyword, switched, device, monkeypatch):
    heard = []
    plan_of = backward.backward_plan_of

    def listen(values):
        heard.append(values[1][-1])
        return plan_of(values)

    monkeypatch.setattr("kernel.backward.backward_plan_of", listen)
    leaves = [x.requires_grad_() for x in draw(1, 2, 1, 9, 9, 16, device=device)]
    torch.use_deterministic_algorithms(switched)
    try:
        flash_attention(*leaves, deterministic=keyword).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert heard == [keyword or switched]


def test_what_is_promised():
    assert ("deterministic" in flash_attention.__flashattest__["exact"]) == INTERPRETED


# The small kernels before and after, which the interpreter runs too


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize(("d", "Nq"), [(40, 64), (64, 130), (80, 1), (256, 70)])
def test_dq_of_its_sum(d, Nq, in_tiles, device):
    heads, q_tiles, parts = 3, -(-Nq // 64), max(1, (1 << (d - 1).bit_length()) // 64)
    total = torch.randn(heads, q_tiles * 64, parts * 64, device=device)
    laid = total
    if in_tiles:
        laid = total.view(heads, q_tiles, 4, 2, 8, parts, 8, 4, 2).permute(0, 1, 5, 6, 2, 4, 7, 3, 8)
    dq = torch.full((heads, Nq, d), torch.nan, device=device)
    _scale_dq[(heads * q_tiles * parts,)](laid.contiguous(), dq, 0.5, q_tiles, Nq, d, parts, in_tiles)
    assert torch.equal(dq, 0.5 * total[:, :Nq, :d])


@pytest.mark.parametrize(("d", "Nq"), [(40, 64), (64, 130), (96, 1), (256, 70)])
def test_the_sum_begins_with_0_and_delta_stays_what_it_is(d, Nq, device):
    q, k, v = draw(2, 2, 1, Nq, 9, d, torch.float16, device)
    o, lse = flash_attention(q, k, v, return_lse=True)
    values = as_backward_values(o, None, q, k, v, o, lse, False, None, None, None, (True, True, True))
    asked = check_backward(values)
    want, delta = torch.empty_like(lse), torch.empty_like(lse)
    delta_launch(asked, Nq)(o, o, lse, None, want, None, None)
    total = torch.full((asked.forward.heads * -(-Nq // 64) * 64 * block_d(d),), torch.nan, device=device)
    delta_launch(asked, Nq, rows=64)(o, o, lse, None, delta, None, total)
    assert not total.any()
    torch.testing.assert_close(delta, want, rtol=1e-5, atol=1e-5)
