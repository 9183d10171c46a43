"""truncated_svd: the best approximation there is, found exactly or at random, always the same factors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.extmath import randomized_svd

from refimpl.lowrank import truncated_svd
from tests.contracts.registry import randn


def decaying(m=120, n=80, power=1.0):
    """A matrix with the spectrum i^-power, as trained weights roughly have."""
    u, v = torch.linalg.qr(randn(m, n, seed=5)).Q, torch.linalg.qr(randn(n, n, seed=6)).Q
    return u @ torch.diag(torch.arange(1, n + 1).float() ** -power) @ v


def test_by_hand():
    """[[0, -2], [3, 0]]: singular values 3 and 2; the large entry of each right vector is positive."""
    u, s, vh = truncated_svd(torch.tensor([[0.0, -2.0], [3.0, 0.0]]), 2)
    torch.testing.assert_close(s, torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(vh, torch.eye(2))
    torch.testing.assert_close(u, torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    best = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, -2.0]]), 1).matrix()
    torch.testing.assert_close(best, torch.tensor([[3.0, 0.0], [0.0, 0.0]]))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["exact", "randomized"]), st.data())
def test_eckart_young(m, n, method, data):
    """‖W − W_r‖_F² = Σ_{i>r} σ_i², spectral norm σ_{r+1}; orthonormal factors; descending values.

    Randomised too: the basis of r + 10 columns spans a matrix of this size.
    """
    rank = data.draw(st.integers(1, min(m, n)))
    w = randn(m, n, seed=m * 100 + n)
    factors = truncated_svd(w, rank, method)
    u, s, vh = factors
    assert u.shape == (m, rank) and s.shape == (rank,) and vh.shape == (rank, n)
    all_s = torch.linalg.svdvals(w.double())
    rest = (w - factors.matrix()).double()
    torch.testing.assert_close(rest.square().sum(), (all_s[rank:] ** 2).sum(), rtol=1e-4, atol=1e-5)
    if rank < min(m, n):
        torch.testing.assert_close(torch.linalg.matrix_norm(rest, 2), all_s[rank], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(u.T @ u, torch.eye(rank), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vh @ vh.T, torch.eye(rank), rtol=1e-4, atol=1e-5)
    assert bool((s.diff() <= 0).all())
    assert bool((vh.gather(1, vh.abs().argmax(1, keepdim=True)) > 0).all())
    up, down = factors.balanced()
    torch.testing.assert_close(up @ down, factors.matrix(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_no_other_matrix_of_that_rank_is_closer():
    """The claim of Eckart and Young, against projections on other subspaces."""
    w = randn(20, 30, seed=3)
    best = float((w - truncated_svd(w, 5).matrix()).norm())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        basis = torch.linalg.qr(torch.randn(20, 5, generator=generator)).Q
        assert float((w - basis @ (basis.T @ w)).norm()) > best


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_equals_torch(method):
    """Up to the sign, which is ours: the library leaves it open."""
    w = decaying(30, 20)
    u, s, vh = truncated_svd(w, 4, method)
    tu, ts, tvh = torch.linalg.svd(w)
    torch.testing.assert_close(s, ts[:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((u * (u * tu[:, :4]).sum(0)), tu[:, :4], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((vh * vh).sum(1), (vh * tvh[:4]).sum(1).abs(), rtol=1e-4, atol=1e-5)
    # and for the negated matrix the left vectors turn, the right ones stay
    minus = truncated_svd(-w, 4, method)
    torch.testing.assert_close(minus.vh, vh, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(minus.u, -u, rtol=1e-3, atol=1e-4)


def test_fp64_stays_fp64_and_nothing_carries_a_graph():
    w = decaying(9, 6).double().requires_grad_()
    for method in ("exact", "randomized"):
        factors = truncated_svd(w, 3, method)
        assert all(t.dtype == torch.float64 and not t.requires_grad for t in factors)
        assert all(t.is_contiguous() for t in factors)
        torch.testing.assert_close(factors.s, torch.linalg.svdvals(w.detach())[:3], rtol=1e-6, atol=1e-9)


def test_randomised_is_nearly_optimal_and_reproducible():
    w = decaying()
    best = (w - truncated_svd(w, 10).matrix()).norm()
    first = truncated_svd(w, 10, "randomized")
    assert float((w - first.matrix()).norm() / best) < 1.001
    torch.manual_seed(77)
    before = torch.get_rng_state()
    again = truncated_svd(w, 10, "randomized")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    seeds = [truncated_svd(w, 10, "randomized", generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    assert torch.equal(seeds[0].u, first.u) and not torch.equal(seeds[1].u, first.u)


def excess(w, **settings):
    best = float((w - truncated_svd(w, 10).matrix()).norm())
    return float((w - truncated_svd(w, 10, "randomized", **settings).matrix()).norm()) / best - 1


def test_power_iterations_and_oversampling_pay():
    """Without them the error is clearly worse: the settings do what they say."""
    w = decaying(power=0.4)
    plain = excess(w, oversampling=0, power_iterations=0)
    one = excess(w, oversampling=0, power_iterations=1)
    four = excess(w, oversampling=0, power_iterations=4)
    assert plain > 5 * four and plain > one > four
    assert plain > 1.2 * excess(w, oversampling=20, power_iterations=0)
    assert excess(w) == excess(w, oversampling=10, power_iterations=4) < 1e-3


def test_many_rounds_do_not_lose_small_singular_values():
    """Singular values from 1 to 1e-3: without a QR in between, W Wᵀ to the eighth leaves only the first."""
    w = torch.diag(torch.logspace(0, -3, 12)) @ torch.linalg.qr(randn(12, 12, seed=8)).Q
    s = truncated_svd(w, 12, "randomized", power_iterations=8).s
    torch.testing.assert_close(s, torch.logspace(0, -3, 12), rtol=1e-3, atol=1e-6)


def test_randomised_equals_the_libraries():
    w = decaying()
    s = truncated_svd(w, 8, "randomized").s
    theirs = torch.from_numpy(randomized_svd(w.numpy(), 8, n_iter=4, random_state=0)[1])
    torch.testing.assert_close(s, theirs, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    torch.testing.assert_close(s, torch.svd_lowrank(w, q=18, niter=4)[1][:8], rtol=1e-4, atol=1e-5)


def test_randomised_takes_a_basis_wider_than_the_matrix():
    w = randn(6, 9)
    torch.testing.assert_close(
        truncated_svd(w, 6, "randomized", oversampling=50).matrix(), w, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_a_matrix_of_zeros(method):
    u, s, vh = truncated_svd(torch.zeros(3, 4), 2, method)
    assert float(s.abs().sum()) == 0 and bool(torch.isfinite(u).all() and torch.isfinite(vh).all())
