"""Every value family has the same bits everywhere, and is what its name says."""

import numpy as np
import pytest
import torch

from strategies import AttentionCase, Geometry, TensorSpec, build, checksum
from strategies.values import FAMILIES, Stream

CASE = AttentionCase(Geometry(2, 4, 2, 33, 40, 16))

PINNED = {
    "normal": "854be6b854a8ac8c",
    "small_integers": "f9f0dbdcd1a0d9e5",
    "constant": "b947d971471729f9",
    "positive": "ed6e458210e1b517",
    "negative": "ebece462fffc4eb8",
    "outliers": "5e2f1a7e72d9c273",
    "large": "421ef89a5ee2daef",
    "tiny": "862edf539675f9a5",
    "denormal": "021ebab6fc6123d3",
    "clusters": "44214168faa87f53",
    "one_hot": "22312a7fc9d829c3",
    "rising": "9a1a387a7fb863be",
    "falling": "ca1298aa41bad9d5",
    "common_mean": "cdca3b361d6a2d0d",
    "levels": "0022332d1961b315",
    "sunken": "a6dea5979e090877",
}
PINNED_DTYPES = {"fp32": "854be6b854a8ac8c", "fp16": "505738dc899c4071", "bf16": "ad2c0855879e6393"}


def of_family(name, case=CASE, seed=1):
    return case.replace(**{role: TensorSpec(name, seed) for role in "qkv"})


def q_of(name, **how):
    return build(of_family(name, **how)).q.double()


def test_every_family_is_pinned_here():
    assert set(PINNED) == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_are_the_same_everywhere(name):
    assert checksum(build(of_family(name)))[:16] == PINNED[name]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_rounding_is_the_same_everywhere(dtype):
    assert checksum(build(of_family("normal", CASE.replace(dtype=dtype))))[:16] == PINNED_DTYPES[dtype]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_value_is_finite(name, dtype):
    problem = build(of_family(name, CASE.replace(dtype=dtype)))
    assert all(tensor.isfinite().all() for tensor in (problem.q, problem.k, problem.v))


@pytest.mark.parametrize("name", FAMILIES)
def test_another_seed_is_another_tensor(name):
    assert len({checksum(build(of_family(name, seed=seed))) for seed in range(8)}) > 1


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"constant", "one_hot"}))
def test_q_k_and_v_of_one_seed_are_not_alike(name):
    square = build(of_family(name, AttentionCase(Geometry(Nq=9, Nk=9, d=8))))
    assert not torch.equal(square.q, square.k)
    assert not torch.equal(square.k, square.v)


# --- what the names say


def test_normal():
    x = q_of("normal")
    assert abs(x.mean()) < 0.1
    assert abs(x.std() - 1) < 0.05
    assert x.abs().max() <= 2 * 3**0.5


def test_small_integers():
    assert set(q_of("small_integers").unique().tolist()) == {-2, -1, 0, 1, 2}


def test_constant():
    assert q_of("constant").unique().numel() == 1


def test_positive_and_negative():
    assert 0 < q_of("positive").min() < q_of("positive").max() < 1
    assert -16 <= q_of("negative").min() < q_of("negative").max() <= -8


def test_outliers():
    far = q_of("outliers").abs() > 2 * 3**0.5
    assert 0 < far.double().mean() < 0.005
    assert any(q_of("outliers", case=AttentionCase(), seed=seed).abs().max() > 4 for seed in range(8))


def test_large_scores_pass_fp16_and_v_does_not():
    problem = build(of_family("large", CASE.replace(dtype="fp16")))
    S = problem.q.double() @ problem.k.double().repeat_interleave(2, 1).mT
    assert S.abs().max() > 65504
    assert 20000 < problem.v.double().abs().max() < 65504


def test_tiny_and_denormal():
    assert abs(q_of("tiny").std() * 2**10 - 1) < 0.05
    in_fp16 = q_of("denormal", case=CASE.replace(dtype="fp16"))
    assert 0 < in_fp16.abs().max() < torch.finfo(torch.float16).smallest_normal


def test_clusters():
    rows = q_of("clusters").reshape(-1, 16)
    near = torch.cdist(rows, rows) < 0.5
    assert len({tuple(row.tolist()) for row in near}) == 3


def test_one_hot():
    x = q_of("one_hot")
    assert torch.equal(x.sum(-1), torch.ones(x.shape[:-1]).double())
    assert set(x.unique().tolist()) == {0, 1}
    assert len({tuple(row.tolist()) for row in x[0, 0, :16]}) == 16


def test_rising_and_falling():
    rising, falling = q_of("rising").mean(-1), q_of("falling").mean(-1)
    assert (rising[..., -1] > 16).all()
    assert (rising[..., 0] == 0).all()
    assert (falling[..., 0] > 16).all()
    assert (falling[..., -1] == 0).all()


def test_common_mean():
    x = q_of("common_mean")
    shared = x.mean((0, 1, 2))
    assert shared.abs().max() > 4
    assert (x - shared).std() < 1.5


def test_levels():
    sizes = q_of("levels").std((2, 3)).log2().flatten()
    assert sizes.max() - sizes.min() > 1.5
    assert (sizes.round() % 2 == 0).all()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("d", [1, 16, 576])
def test_sunken_scores_are_alike_and_at_the_levels_of_finite_masks(d, dtype):
    problem = build(of_family("sunken", AttentionCase(Geometry(Nq=64, Nk=9, d=d), dtype)))
    S = problem.q.double() @ problem.k.double().mT * problem.scale
    assert (S[..., :1] == S).all()
    found = (-S[0, 0, :, 0]).unique()
    wanted = torch.tensor((4e3, 1e5, 1e7, 1e9), dtype=torch.float64)
    assert ((wanted / 2 < found * 1.01) & (found <= wanted * 1.01)).all()  # a power of two, over a rounded root of d
    assert problem.v.std() < 2


# --- the stream


def test_stream_depends_on_seed_and_role_alone():
    draws = {
        (seed, role): Stream.of(seed, role).uniform((4,)).tobytes() for seed in range(3) for role in ("q", "k", "v")
    }
    assert len(set(draws.values())) == 9
    assert Stream.of(2, "v").uniform((4,)).tobytes() == draws[2, "v"]


def test_uniform_is_never_0_or_1():
    x = Stream.of(0, "q").uniform((10_000,))
    assert 0 < x.min() < 0.001
    assert 0.999 < x.max() < 1


def test_integers_reach_both_ends():
    assert set(np.unique(Stream.of(0, "q").integers(-2, 3, (1000,)))) == {-2, -1, 0, 1, 2, 3}
