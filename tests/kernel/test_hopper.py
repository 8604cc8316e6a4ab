"""The Hopper path: what it takes, its tiles, what the compiler makes of it, and on its device what it computes."""

import dataclasses
import json

import pytest
import torch

from kernel import flash_attention
from kernel.call.arguments import Asked, check_arguments
from kernel.call.launch import INTERPRETED
from kernel.call.problem import Problem
from kernel.choose import FORWARD, plan_for
from kernel.hopper import forward as hopper
from kernel.hopper.forward import TILES, WORTH_IT, Block, Hopper, is_masked, known_tiles, tiles_of
from kernel.tiles.config import SHARED_MEMORY

from .compiled import run_compiled
from .contract import CAUSAL, PATHS
from .tensors import draw, same, transposed

HOPPER = PATHS["hopper"]
ALL_TILES = [(d, tile) for d, tiles in TILES.items() for tile in tiles]
PROBLEM = Problem(
    *(2, 4, 2, 256, 512, 128, None, 0.1, torch.float16, torch.device("cuda", 0)),
    strides=((131072, 32768, 128, 1), (131072, 65536, 128, 1), (131072, 65536, 128, 1)),
    aligned=(True, True, True),
    seqlens_dtype=None,
    seqlens_stride=0,
)


def problem(**changes):
    return dataclasses.replace(PROBLEM, **changes)


def square(N, heads, causal=False):
    """Of d 64."""
    return {"d": 64, "B": 1, "Hq": heads, "Nq": N, "Nk": N, "alignment": "upper_left" if causal else None}


def strides(q):
    return {"strides": (q, *PROBLEM.strides[1:])}


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": torch.bfloat16},
        {"d": 40},
        {"d": 256},
        {"Nk": 1},
        {"Nq": 1},
        {"scale": -1e-30},
        {"alignment": "lower_right"},
        {"seqlens_dtype": torch.int64, "seqlens_stride": 3},
        {"B": 1, **strides((0, 32768, 128, 1))},
        strides((131072, 128, 512, 1)),
        strides((2**39 - 8, 32768, 128, 1)),
        {"Nq": 2**27, "B": 1, "Hq": 1},
    ],
)
def test_what_it_takes(changes):
    assert Hopper().refusal(problem(**changes)) is None


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float32}, "dtype"),
        ({"d": 32}, "head dim"),
        ({"d": 100}, "head dim"),
        ({"Nk": 0}, "no keys"),
        ({"B": 0}, "no heads"),
        ({"scale": 0.0}, "scale is 0"),
        ({"scale": 1e-60}, "scale is 0"),
        ({"aligned": (True, True, False)}, "16 bytes"),
        (strides((131072, 32768, 128, 2)), "strides"),
        (strides((131072, 32768, 132, 1)), "strides"),
        (strides((131072, 0, 128, 1)), "strides"),
        (strides((2**39, 32768, 128, 1)), "strides"),
        ({"Nk": 2**31 - 1}, "too many rows"),
        ({"Nq": 2**31 - 1, "B": 1, "Hq": 1}, "too many rows"),
        ({"Nq": 64, "B": 2**16, "Hq": 2**15}, "too many rows"),
    ],
)
def test_what_it_refuses(changes, reason):
    assert reason in Hopper().refusal(problem(**changes))


@pytest.mark.usefixtures("_h100")
def test_few_rows_are_refused_unless_it_is_asked_for():
    assert Hopper(WORTH_IT).refusal(problem(Nq=WORTH_IT)) is None
    assert Hopper(WORTH_IT).refusal(problem(Nq=WORTH_IT - 1)) == f"there are fewer than {WORTH_IT} query rows"
    assert Hopper().refusal(problem(Nq=1)) is None


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        (hopper, "INTERPRETED", True, "Triton's interpreter does not run Gluon"),
        (hopper, "device_arch", lambda device: 100, "it is written for sm_90, and the device is sm_100"),
        (hopper.triton, "__version__", "3.8.0", "it has not been run with Triton 3.8.0"),
    ],
)
def test_what_is_refused_for_where_it_runs(place, name, value, reason, monkeypatch):
    monkeypatch.setattr(place, name, value)
    assert Hopper().refusal(PROBLEM) == reason


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"d": 128}, "128x128x2x2"),
        ({"d": 72}, "128x128x2x2"),
        ({"d": 128, "alignment": "lower_right", "Nk": 8192}, "128x128x2x1"),
        ({"d": 256}, "128x64x2x1"),
        ({"d": 136, "alignment": "lower_right"}, "128x64x2x1"),
        (square(4096, 128), "192x128x4x2"),
        ({**square(4096, 128), "d": 40}, "192x128x4x2"),
        (square(16384, 12, causal=True), "192x128x4x2"),
        (square(4096, 48, causal=True), "128x128x3x2"),
        # 48 tall tiles or 64 short ones; 176 or 256; 132 or 192; 344 or 512, for 132 multiprocessors.
        (square(1024, 8), "128x128x3x2"),
        (square(4096, 8), "128x128x3x2"),
        (square(2048, 12), "192x128x4x2"),
        (square(8192, 8), "192x128x4x2"),
        # 132 pairs of tall tiles or 192 of short ones; 88 or 128.
        (square(4096, 12, causal=True), "192x128x4x2"),
        (square(8192, 4, causal=True), "128x128x3x2"),
    ],
)
def test_the_shipped_tile(changes, first):
    configs = Hopper().configs(problem(**changes))
    assert configs[0] == first
    assert set(configs) == set(map(str, known_tiles(changes["d"])))


def test_tiles_of_a_head_dim_take_keys_in_the_same_steps():
    """Batch and heads choose between them, and may change no bit."""
    assert all(len({tile.BLOCK_N for tile in tiles}) == 1 for tiles in TILES.values())


@pytest.mark.cuda
@pytest.mark.parametrize("d", [40, 64, 128])
@pytest.mark.parametrize("causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("box", [(2, 4, 2, 333, 257), (3, 6, 2, 129, 700), (1, 8, 8, 2048, 2048)])
def test_tiles_of_a_head_dim_give_the_same_bits(d, causal, padded, box):
    q, k, v = draw(*box, d, torch.bfloat16, "cuda")
    lengths = torch.arange(box[0], device="cuda") * box[4] // 3 if padded else None
    for scale in (None, -0.3):
        first, *others = (
            flash_attention(q, k, v, causal, lengths, scale, return_lse=True, config=f"hopper:{tile}")
            for tile in known_tiles(d)
        )
        assert others
        assert all(same(first, other) for other in others)


@pytest.mark.parametrize(
    ("changes", "masked"),
    [
        ({}, False),
        ({"Nk": 511}, True),
        ({"alignment": "upper_left"}, True),
        ({"seqlens_dtype": torch.int32}, True),
    ],
)
def test_when_some_row_sees_a_tile_in_part(changes, masked):
    assert is_masked(problem(**changes), 128) == masked


def test_a_config_names_the_path_and_its_tile():
    assert FORWARD.parse("hopper") == (Hopper(), None)
    assert FORWARD.parse("hopper:128x128x2x1") == (Hopper(), "128x128x2x1")


@pytest.mark.usefixtures("_h100")
def test_a_plan_has_the_tile_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(hopper, "_launch", lambda problem, tile: lambda *tensors: tile)
    for config, tile in ((None, "128x128x2x2"), ("128x128x2x1", "128x128x2x1")):
        plan = Hopper().plan(PROBLEM, config)
        assert (plan.path, plan.config, str(plan.launch())) == ("hopper", tile, tile)


@pytest.mark.parametrize("config", ["fast", "128x128x2", "128x128x2x1x1", "128x128x-2x1", " 128x128x2x1"])
def test_a_tile_that_cannot_be_read(config):
    with pytest.raises(ValueError, match="config hopper: must read like 128x128x2x2") as error:
        Hopper().plan(PROBLEM, config)
    assert str(error.value) == (
        f"config hopper: must read like 128x128x2x2 (rows x keys x K and V slots x Q slots), got {config!r}"
    )


@pytest.mark.parametrize("config", ["192x128x4x2", "128x128x3x2", "64x64x1x1"])
def test_a_tile_of_another_head_dim(config):
    with pytest.raises(NotImplementedError, match="hopper") as error:
        Hopper().plan(PROBLEM, config)
    assert str(error.value) == (f"config hopper:{config} must be one of 128x128x2x2, 128x128x2x1 for this head dim")


@pytest.mark.usefixtures("_h100")
def test_strides_of_dimensions_of_size_1_are_made_legal():
    """They may be anything in the tensor, since nothing uses them; TMA checks them all the same."""
    odd = torch.empty(4096, dtype=torch.float16).as_strided((1, 1, 1, 64), (3, 7, 5, 1))
    single = dataclasses.replace(check_arguments(Asked(odd, odd, odd)), device=PROBLEM.device)
    assert Hopper().refusal(dataclasses.replace(single, aligned=PROBLEM.aligned)) is None
    for block in hopper._blocks(single, tiles_of(single)[0]):
        assert block.strides == [64, 64, 64, 1]
    assert Block((2, 1, 5, 64), (320, 0, 64, 1), 64, 64, 16).strides == [320, 64, 64, 1]


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize("d", [40, 64, 72, 128, 136, 256])
def test_blocks_cover_the_head_dim(d):
    q, k, v, o = hopper._blocks(problem(d=d), tiles_of(problem(d=d))[0])
    assert q.block[3] == k.block[3] == v.block[3] >= d
    assert q.block[3] % o.block[3] == 0
    assert o.strides == [4 * 256 * d, 256 * d, d, 1]


@pytest.mark.parametrize(("d", "tile"), ALL_TILES)
def test_a_tile_fits_an_h100(d, tile):
    barriers = tile.q_slots * tile.groups + 2 * tile.slots
    elements = tile.q_slots * tile.BLOCK_M * d + 2 * tile.slots * tile.BLOCK_N * d + tile.BLOCK_M * min(d, 128)
    # What Triton hands to the warps that load stands there too, in less than 1 KB.
    assert 2 * elements + 8 * barriers + 1024 <= SHARED_MEMORY[90]
    assert 6 + 2 * tile.slots + tile.q_slots <= 16
    assert 128 * tile.groups * tile.registers + 2 * 32 * 24 <= 65_536
    assert tile.BLOCK_M % 64 == 0


COMPILE = """
import json
from kernel.hopper.forward import TILES
from kernel.tools.hopper_ahead import VARIANTS, compile_hopper
from kernel.tools.resources import Point, measure
point = Point(90, 128, "bf16", TILES[128][0], True, "hopper", VARIANTS[2])
cost = measure(point)
ptx = compile_hopper(point.tile, point.d, point.dtype, point.variant).asm["ptx"]
print(json.dumps([cost.verdict, cost.shared, "wgmma.mma_async" in ptx, "cp.async.bulk.tensor" in ptx]))
"""


def test_it_compiles_with_no_gpu_and_all_registers_are_written():
    """Its verdict is ok: wgmma is not serialised, and no uniform register is read before a write."""
    done = run_compiled("-c", COMPILE)
    assert done.returncode == 0, done.stderr
    verdict, shared, *used = json.loads(done.stdout)
    assert verdict == "ok"
    assert 0 < shared <= SHARED_MEMORY[90]
    assert used == [True, True]


# From here on: the path itself.


@pytest.fixture
def _on_h100():
    if INTERPRETED or Hopper().refusal(problem(device=torch.device("cuda", torch.cuda.current_device()))) is not None:
        pytest.skip("needs a device and a Triton that the path takes")


def on_device(function):
    """Mark a test of the path itself."""
    return pytest.mark.cuda(pytest.mark.usefixtures("_on_h100")(function))


def run(q, k, v, causal=False, seqlens_k=None, scale=None, config="hopper"):
    return flash_attention(q, k, v, causal, seqlens_k, scale, return_lse=True, config=config)


@on_device
@pytest.mark.parametrize("dtype", HOPPER.dtypes)
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", HOPPER.head_dims)
def test_every_head_dim_at_every_edge(d, causal, dtype):
    for Nq, Nk in HOPPER.edges:
        HOPPER.attest(Nq, Nk, d, dtype, Hq=2, causal=causal)
    HOPPER.attest(200, 321, d, dtype, B=4, Hq=4, Hk=2, causal=causal, seqlens_k=(0, 1, 129, 321))


@on_device
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("causal", CAUSAL)
@pytest.mark.parametrize("d", [40, 64, 128, 256])
def test_what_lies_behind_the_lengths_is_never_read(d, causal, dtype):
    q, k, v = draw(4, 4, 2, 200, 321, d, torch.bfloat16, "cuda")
    lengths = torch.tensor([0, 1, 129, 321], device="cuda", dtype=dtype)
    want = run(q, k, v, causal, lengths)
    for b, n in enumerate(lengths.tolist()):
        k[b, :, n:] = v[b, :, n:] = torch.nan
    assert same(want, run(q, k, v, causal, lengths))
    assert same(want, run(q, transposed(k), transposed(v), causal, lengths))


@on_device
def test_a_length_out_of_range_is_clamped():
    q, k, v = draw(2, 1, 1, 5, 140, 64, torch.float16, "cuda")
    wild, clamped = (torch.tensor(x, device="cuda") for x in ([-7, 2**40], [0, 140]))
    assert all(map(torch.equal, run(q, k, v, seqlens_k=wild), run(q, k, v, seqlens_k=clamped)))


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("d", "tile"), ALL_TILES)
def test_each_tile(d, tile, causal):
    of_tile = dataclasses.replace(HOPPER, config=f"hopper:{tile}", differentiable=False)
    of_tile.attest(600, 500, d, "bf16", B=2, Hq=4, Hk=2, causal=causal, scale=-0.2)
    of_tile.attest(256, 512, d, "bf16", Hq=2, causal=causal)


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [40, 128])
def test_a_layout_gives_the_bits_of_another(d, causal):
    """(B, N, H, d) in memory, a slice of a wider tensor, and heads of size 1 with a stride that is never used."""
    q, k, v = draw(2, 4, 2, 200, 321, d, torch.float16, "cuda")
    want = run(q, k, v, causal)
    wide = [torch.cat([x, x], -1)[..., :d] for x in (q, k, v)]
    for tensors in ((transposed(q), transposed(k), transposed(v)), (q, transposed(k), v), wide):
        assert all(map(torch.equal, run(*tensors, causal), want))
    one = [x[:1, :1] for x in (q, k, v)]
    odd = [x.as_strided(x.shape, (3, 7, *x.stride()[2:])) for x in one]
    assert all(map(torch.equal, run(*odd, causal), run(*one, causal)))


@on_device
def test_it_is_picked_where_it_is_worth_it():
    def path(Nq, d=64, dtype=torch.float16, config=None):
        return plan_for(Asked(*draw(1, 2, 1, Nq, 200, d, dtype, "cuda"), config=config)).path

    assert path(WORTH_IT) == path(WORTH_IT, 256, torch.bfloat16) == path(1, config="hopper") == "hopper"
    assert path(WORTH_IT - 1) == path(WORTH_IT, 36) == path(WORTH_IT, dtype=torch.float32) == "portable"
    assert plan_for(Asked(*draw(1, 2, 1, 200, 200, 64, torch.float16, "cuda"), scale=0.0)).path == "portable"
    with pytest.raises(NotImplementedError, match="config 'hopper' does not take this call: the dtype is not"):
        path(200, dtype=torch.float32, config="hopper")


@on_device
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_a_graph_replays_on_changed_inputs(d, causal):
    box = (2, 4, 2, 200, 300, d, torch.bfloat16, "cuda")
    q, k, v = draw(*box)
    lengths = torch.tensor([300, 17], device="cuda", dtype=torch.int32)
    run(q, k, v, causal, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o, lse = run(q, k, v, causal, lengths)
    for seed, n in ((1, 290), (2, 0)):
        for x, new in zip((q, k, v), draw(*box, seed), strict=True):
            x.copy_(new)
        lengths[0] = n
        graph.replay()
        assert all(map(torch.equal, (o, lse), run(q, k, v, causal, lengths)))
