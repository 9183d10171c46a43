"""Masks: exact counts whatever the ties, and the entries that a naive sort would remove."""

import sys
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.prune import apply_mask, mask_from_scores, mask_n_of_m, removed_count


@given(st.integers(0, 3000), st.integers(0, 1000))
def test_count_is_the_floor_of_the_decimal_product(n, thousandths):
    """Floats alone would give 28 of 100 at .29, and 57 of 100 at .58."""
    assert removed_count(n, thousandths / 1000) == Fraction(thousandths, 1000) * n // 1


def test_count_hand_cases():
    assert 0.29 * 100 < 29
    assert removed_count(100, 0.29) == 29
    assert removed_count(3, 1 / 3) == 1
    assert removed_count(7, 0.5) == 3
    assert removed_count(10, 0.999) == 9
    assert removed_count(10**9, 0.2999999999) == 299999999
    assert removed_count(0, 0.5) == 0
    assert (removed_count(5, 0), removed_count(5, 1)) == (0, 5)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_the_tolerance_is_of_rounding_not_of_taste(n):
    """Just under one whole entry is none; only rounding error is forgiven."""
    assert removed_count(n, (1 - 1e-13) / n) == 0
    assert removed_count(n, 1 - 1e-13) == n - 1
    eps = sys.float_info.epsilon
    assert (removed_count(1, 1 - 4 * eps), removed_count(1, 1 - 4.5 * eps)) == (1, 0)


def test_fp64_scores_are_compared_in_fp64():
    """In fp32 the two would be equal, and the first would go."""
    scores = torch.tensor([1 + 1e-12, 1.0], dtype=torch.float64)
    assert mask_from_scores(scores, 0.5).tolist() == [True, False]


def naive_mask(scores, sparsity):
    """A Python sort by (score, index), independent of the implementation."""
    values = scores.reshape(-1).tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    gone = set(order[: int(Fraction(str(sparsity)) * len(values))])
    return torch.tensor([i not in gone for i in range(len(values))]).reshape(scores.shape)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=40),
    st.sampled_from([0, 0.1, 0.25, 1 / 2, 0.7, 0.9, 1]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_equals_a_naive_sort_also_under_ties(values, sparsity, dtype):
    scores = torch.tensor(values, dtype=dtype)
    assert torch.equal(mask_from_scores(scores, sparsity), naive_mask(scores, sparsity))


def test_shape_and_order_of_ties():
    """Row-major: of four equal scores the first two go."""
    assert mask_from_scores(torch.ones(2, 2), 0.5).tolist() == [[False, False], [True, True]]
    scores = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mask_from_scores(scores.mT, 0.4), mask_from_scores(scores.mT.contiguous(), 0.4))
    assert mask_from_scores(torch.ones(0), 0.5).shape == (0,)


def test_a_mask_carries_no_gradient():
    scores = torch.randn(5, requires_grad=True)
    assert not mask_from_scores(scores, 0.4).requires_grad


def test_two_of_four():
    scores = torch.tensor([[1.0, 4, 2, 3, 5, 5, 5, 5], [0, 0, 0, 1, 9, 8, 7, 6]])
    kept = [[0, 1, 0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]
    assert mask_n_of_m(scores).int().tolist() == kept
    assert mask_n_of_m(scores, 1, 8).int().tolist() == [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0, 0]]
    assert mask_n_of_m(scores, 0, 4).sum() == 0
    assert bool(mask_n_of_m(scores, 4, 4).all())


def test_apply_gives_a_copy_with_plain_zeros():
    weight = torch.tensor([-1.0, 2.0, -3.0])
    pruned = apply_mask(weight, torch.tensor([False, True, False]))
    assert pruned.tolist() == [0, 2, 0]
    assert not bool(torch.signbit(pruned).any())  # -1 · 0 would be -0
    assert weight.tolist() == [-1, 2, -3]


def test_groups_of_one():
    assert mask_n_of_m(torch.zeros(1, 2), 1, 1).tolist() == [[True, True]]
    assert mask_n_of_m(torch.zeros(1, 2), 0, 1).tolist() == [[False, False]]


@pytest.mark.parametrize("call", [mask_from_scores, mask_n_of_m])
@pytest.mark.parametrize(
    ("scores", "exception", "message"),
    [
        (torch.ones(2, 4, dtype=torch.int32), TypeError, "scores: got dtype"),
        (torch.full((2, 4), torch.nan), ValueError, "scores: got NaN"),
    ],
)
def test_scores_that_cannot_be_ranked(call, scores, exception, message):
    with pytest.raises(exception, match=message):
        call(scores, 1)
