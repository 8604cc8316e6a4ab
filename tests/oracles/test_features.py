"""What features mean: which keys a query sees, by `visible` for torch and by `sees` for numpy64."""

import itertools

import pytest
import torch

from oracles.features import MEANINGS, Mask, broken_premises, visible, visible_keys
from strategies import AttentionCase, Features, Geometry, build
from strategies.features import FEATURES

MASKS = sorted(name for name, each in MEANINGS.items() if isinstance(each, Mask))


def sees(case, b, i, j):
    """Whether query i of batch entry b sees key j, by the definition."""
    shift = {False: case.geometry.Nk, True: 0, "lower_right": case.lengths[b] - case.geometry.Nq}[case.features.causal]
    return j < case.lengths[b] and j <= i + shift


@pytest.mark.parametrize("causal", [False, True, "lower_right"])
@pytest.mark.parametrize("lengths", [None, (0, 3, 5)])
@pytest.mark.parametrize("Nq", [1, 4, 7])
def test_visible_keys_are_those_of_the_definition(causal, lengths, Nq):
    case = AttentionCase(Geometry(B=3, Nq=Nq, Nk=5), features=Features(causal, seqlens_k=lengths))
    seen_by = visible(build(case))
    wanted = torch.tensor([[[sees(case, b, i, j) for j in range(5)] for i in range(Nq)] for b in range(3)])
    seen = torch.ones_like(wanted) if seen_by is None else seen_by.expand(3, 1, Nq, 5)[:, 0]
    assert torch.equal(seen, wanted)


def test_visible_is_none_where_all_see_all():
    assert visible(build(AttentionCase(Geometry(Nq=3, Nk=5)))) is None


def small_problems(names):
    """Every problem of up to 4 queries and keys with every value that these features have for a small box."""
    for Nq, Nk in itertools.product(range(1, 5), range(5)):
        geometry = Geometry(Nq=Nq, Nk=Nk)
        boxes = [FEATURES[name].box(FEATURES[name].anything, geometry) for name in names]
        for values in itertools.product(*boxes):
            yield build(AttentionCase(geometry, features=Features(**dict(zip(names, values, strict=True)))))


def sees_what_is_visible(problem):
    """Whether `sees` and `visible` agree on every row."""
    Nq, Nk = problem.q.shape[2], problem.k.shape[2]
    seen = visible(problem)
    rows = torch.ones(Nq, Nk, dtype=torch.bool) if seen is None else seen.expand(1, 1, Nq, Nk)[0, 0]
    return all(visible_keys(problem, 0, 0, i) == torch.nonzero(rows[i]).flatten().tolist() for i in range(Nq))


@pytest.mark.parametrize("name", MASKS)
def test_each_mask_says_the_same_to_torch_and_to_numpy64(name):
    assert all(map(sees_what_is_visible, small_problems([name])))


def test_all_masks_together_say_the_same():
    assert all(map(sees_what_is_visible, small_problems(MASKS)))


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_has_values_for_a_small_box_that_hide_keys(name):
    assert any((seen := visible(problem)) is not None and not seen.all() for problem in small_problems([name]))


def test_a_feature_breaks_premises_only_where_it_is_asked_for():
    assert broken_premises(Features()) == frozenset()
    assert broken_premises(Features(causal=True)) == {"permutes_keys"}
    assert broken_premises(Features(causal="lower_right", scale=0.5)) == {"permutes_keys", "splits", "independent"}
