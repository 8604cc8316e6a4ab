"""The fused Hopper backward path: what it takes, when it is chosen, what is compiled and, on its device, computed."""

import dataclasses

import pytest
import torch

from kernel import eager, flash_attention
from kernel.call.arguments import Asked, Saved, as_backward_values, check_backward
from kernel.call.launch import INTERPRETED
from kernel.hopper.backward_fused import LEAST_KEYS, TILES, FusedBackward, constexprs_of, tiles_of
from kernel.hopper.device.fused_sum import _scale_dq
from kernel.hopper.forward import WORTH_IT
from kernel.ops import flash_attention_forward
from kernel.portable.backward import delta_launch
from kernel.tiles.config import SHARED_MEMORY, block_d

from .compiled import run_compiled
from .contract import CAUSAL, PATHS
from .tensors import cotangents, draw, lengths, same
from .test_hopper_backward import choose_backward, gradients, on_device, problem


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
from kernel.tools.hopper_ahead import AVAILABLE, VARIANTS, compile_hopper_fused
from kernel.hopper.backward_fused import TILES
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

FUSED = dataclasses.replace(PATHS["hopper"], config="hopper/fused")
BOXES = (
    *((1, 1, 1, 1, 1), (2, 4, 2, 257, 321), (3, 6, 2, 333, 77), (1, 2, 2, 130, 1000), (1, 3, 1, 513, 129)),
    (4, 24, 8, 100, 400),
)
"""B, Hq, Hk, Nq and Nk."""


@on_device
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [40, 64, 80, 128, 136, 256])
def test_it_is_right_within_the_budget(d, causal, dtype):
    for B, Hq, Hk, Nq, Nk in BOXES:
        FUSED.attest(Nq, Nk, d, dtype, B=B, Hq=Hq, Hk=Hk, causal=causal)


@on_device
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [64, 128, 256])
def test_it_is_right_with_lengths(d, causal):
    FUSED.attest(200, 321, d, "bf16", B=4, Hq=4, Hk=2, causal=causal, seqlens_k=(0, 1, 129, 321))


@on_device
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [64, 128, 256])
def test_what_nobody_sees_is_never_read(d, causal):
    """Keys past the length or the diagonal, and what comes back to rows that see no key."""
    q, k, v = draw(4, 4, 2, 200, 321, d, torch.bfloat16, "cuda")
    seqlens = lengths("cuda", 0, 1, 129, 321)
    dO, dLSE = cotangents(q)
    want = gradients(q, k, v, dO, dLSE, causal, seqlens, config=FUSED.config)
    _, lse = flash_attention(q, k, v, causal, seqlens, return_lse=True)
    dO, dLSE = dO.masked_fill((lse == -torch.inf)[..., None], torch.nan), dLSE.masked_fill(lse == -torch.inf, torch.nan)
    for b, n in enumerate(seqlens.tolist()):
        n = min(n, 200) if causal is True else n
        k[b, :, n:] = v[b, :, n:] = torch.nan
    dQ, *others = gradients(q, k, v, dO, dLSE, causal, seqlens, config=FUSED.config)
    assert same(want[1:], others)
    torch.testing.assert_close(dQ, want[0], rtol=0, atol=2**-7 * float(want[0].abs().max()))


@on_device
@pytest.mark.parametrize("d", [64, 128, 256])
def test_dk_and_dv_have_the_same_bits_each_time(d):
    q, k, v = draw(2, 4, 2, 1100, 900, d, torch.bfloat16, "cuda")
    first, second = (gradients(q, k, v, *cotangents(q), True, config=FUSED.config) for _ in range(2))
    assert same(first[1:], second[1:])


@on_device
@pytest.mark.parametrize("scale", [-0.2, 1e-3])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_a_scale_of_ones_own(d, scale):
    FUSED.attest(321, 257, d, "fp16", Hq=2, causal=True, scale=scale)


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_more_key_tiles_than_programs(d, causal):
    FUSED.attest(500, 900, d, "bf16", B=3, Hq=12, Hk=12, causal=causal)


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
@pytest.mark.parametrize(
    "call", [flash_attention, lambda *args, **options: flash_attention_forward(*args, **options)[0]]
)
def test_who_asks_for_the_same_bits_is_heard(call, keyword, switched, device, monkeypatch):
    heard = []
    plan_of = eager.backward_plan_of

    def listen(values):
        heard.append(values[1][-1])
        return plan_of(values)

    monkeypatch.setattr("kernel.eager.backward_plan_of", listen)
    leaves = [x.requires_grad_() for x in draw(1, 2, 1, 9, 9, 16, device=device)]
    torch.use_deterministic_algorithms(switched)
    try:
        call(*leaves, deterministic=keyword).sum().backward()
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
    asked = check_backward(as_backward_values(Asked(q, k, v), Saved(o, None, o, lse, (True, True, True))))
    want, delta = torch.empty_like(lse), torch.empty_like(lse)
    delta_launch(asked, Nq)(o, o, lse, None, want, None, None)
    total = torch.full((asked.forward.heads * -(-Nq // 64) * 64 * block_d(d),), torch.nan, device=device)
    delta_launch(asked, Nq, rows=64)(o, o, lse, None, delta, None, total)
    assert not total.any()
    torch.testing.assert_close(delta, want, rtol=1e-5, atol=1e-5)
