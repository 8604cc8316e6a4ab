"""The emulated tensor cores: exact where nothing is cut, near float64 elsewhere, other bits of subnormal numbers."""

import pytest
import torch

from harness.recall.faults.tensor_cores import tensor_core_product

HALF = torch.float16


def product(a, b):
    return tensor_core_product(a.float(), b.float(), HALF)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).clamp(-1.9, 1.9).to(HALF)


@pytest.mark.parametrize("K", [0, 1, 16, 17, 80])
def test_small_integers_are_exact(K):
    a, b = (draw(2, 3, *shape, seed=K).mul(8).round() for shape in ((5, K), (K, 7)))
    assert torch.equal(product(a, b).double(), a.double() @ b.double())


@pytest.mark.parametrize("K", [16, 80, 128])
def test_as_near_as_fp32_with_truncation(K):
    a, b = draw(40, K), draw(K, 30, seed=1)
    error = (product(a, b) - a.double() @ b.double()).abs() / (a.double().abs() @ b.double().abs())
    assert 0 < error.max() < 2.0**-21


def test_a_sum_is_cut_below_its_largest_product():
    """By hand: what is below 2^-24 of the largest product is lost, and the sum is cut to 24 bits, not rounded."""
    a = torch.tensor([[1.0, 2.0**-12]], dtype=HALF)
    assert product(a, torch.tensor([[1.0], [2.0**-12]])).item() == 1.0
    assert product(a * 2.0**-1, torch.tensor([[2.0], [2.0**-10]])).item() == 1 + 2.0**-23
    assert product(torch.tensor([[1.0, -(2.0**-12)]]), torch.tensor([[1.0], [1.5 * 2.0**-13]])).item() == 1.0


def test_powers_of_two_keep_the_bits_of_normal_numbers_alone():
    b = draw(64, 30, seed=1)
    for size, keeps in ((2.0**-3, True), (2.0**-20, False)):
        a = draw(40, 64) * size
        assert torch.equal(4 * product(a, b), product(4 * a, b)) == keeps


def test_what_is_not_finite_stays_so():
    one, inf = torch.ones(1, 1), torch.full((1, 1), torch.inf)
    assert product(torch.cat([one, inf], 1), torch.cat([one, one])).item() == torch.inf
    assert product(torch.cat([one, inf], 1), torch.cat([one, 0 * one])).isnan()
    assert product(0 * one, one).item() == 0
