"""Scores of groups against loops that compute what the formula means."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.prune import output_scores, weight_scores


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_weight_scores_by_hand():
    inner, outer = torch.tensor([[3.0, 4], [1, 0]]), torch.tensor([[1.0, 2], [0, 2], [0, 1]])
    assert weight_scores([inner], outer).tolist() == [5 * 1, 1 * 3]
    assert weight_scores([inner, 2 * inner], outer).tolist() == [5 * 10, 1 * 2 * 3]
    assert weight_scores([inner], outer, width=2).tolist() == pytest.approx([26**0.5 * 10**0.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_weight_scores_equal_a_loop(groups, width, out, seed):
    inner, outer = rand(groups * width, 6, seed=seed), rand(out, groups * width, seed=seed + 1)
    got = weight_scores([inner, inner + 1], outer, width)
    for g in range(groups):
        s = slice(g * width, (g + 1) * width)
        want = inner[s].norm() * (inner[s] + 1).norm() * outer[:, s].norm()
        torch.testing.assert_close(got[g], want)


def test_weight_scores_do_not_see_a_rescaling_that_the_function_does_not_see():
    inner, outer = rand(4, 3), rand(5, 4, seed=1)
    c = torch.tensor([0.1, 1, 7, 100], dtype=torch.float64)
    torch.testing.assert_close(weight_scores([inner], outer), weight_scores([c[:, None] * inner], outer / c))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_output_scores_are_the_norm_of_what_the_group_adds(groups, width, out, seed):
    """The definition, computed from the data themselves: ‖X_g W_gᵀ‖_F."""
    x, outer = rand(11, groups * width, seed=seed), rand(out, groups * width, seed=seed + 1)
    got = output_scores(outer, x.T @ x, width)
    for g in range(groups):
        s = slice(g * width, (g + 1) * width)
        torch.testing.assert_close(got[g], (x[:, s] @ outer[:, s].T).norm(), rtol=1e-6, atol=1e-9)


def test_the_diagonal_is_enough_for_neurons():
    x, outer = rand(11, 5), rand(3, 5, seed=1)
    torch.testing.assert_close(output_scores(outer, x.square().sum(0)), output_scores(outer, x.T @ x))
    torch.testing.assert_close(output_scores(outer, x.square().sum(0)), x.norm(dim=0) * outer.norm(dim=0))


def test_a_group_that_is_never_active_scores_zero_not_nan():
    """Rounding may leave tr(W G Wᵀ) a little below zero."""
    x, outer = rand(50, 4), rand(3, 4, seed=1)
    x[:, 2:] = 0
    assert output_scores(outer, x.T @ x, 2)[1] == 0
    gram = torch.tensor([[1.0, -1.0], [-1.0, 1.0 - 1e-7]])
    assert output_scores(torch.ones(1, 2), gram, 2).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    """1,000 squared is over fp16's range."""
    inner, outer = torch.full((2, 400), 50, dtype=dtype), torch.full((400, 2), 50, dtype=dtype)
    assert weight_scores([inner], outer).tolist() == [10**6, 10**6]
    assert weight_scores([inner], outer).dtype == torch.float32
    assert output_scores(outer, torch.tensor([1, 4.0], dtype=dtype)).tolist() == [1000, 2000]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: weight_scores([], torch.ones(2, 2)), "inner: got none"),
        (lambda: weight_scores([torch.ones(3, 2)], torch.ones(2, 2)), "inner: got shape"),
        (lambda: weight_scores([torch.ones(3, 2)], torch.ones(2, 3), 2), "width: got 2"),
        (lambda: weight_scores([torch.ones(3, 2)], torch.ones(2, 3), 0), "width: got 0"),
        (lambda: weight_scores([torch.ones(3, 2)], torch.ones(3)), "outer: got 1 dim"),
        (lambda: output_scores(torch.ones(2, 4), torch.ones(4), 2), "second_moment: got its diagonal"),
        (lambda: output_scores(torch.ones(2, 4), torch.ones(3)), "second_moment: got shape"),
        (lambda: output_scores(torch.ones(2, 4), torch.ones(4, 3)), "second_moment: got shape"),
        (lambda: output_scores(torch.ones(2, 4), torch.tensor(1.0)), "second_moment: got 0 dim"),
        (
            lambda: output_scores(torch.ones(2, 2), torch.tensor([1.0, float("nan")])),
            "second_moment: got NaN",
        ),
        (lambda: output_scores(torch.ones(2, 2) / 0, torch.ones(2)), "outer: got NaN or inf"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: weight_scores([torch.ones(2, 2).int()], torch.ones(2, 2)), TypeError, "inner: got dtype"),
        (lambda: weight_scores([torch.ones(2, 2) / 0], torch.ones(2, 2)), ValueError, "inner: got NaN"),
        (lambda: weight_scores([torch.ones(2, 2)], torch.ones(2, 2).int()), TypeError, "outer: got dtype"),
        (
            lambda: output_scores(torch.ones(2, 2), torch.ones(2).int()),
            TypeError,
            "second_moment: got dtype",
        ),
    ],
)
def test_numbers_that_are_none(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
