"""Ranks: counts by hand, properties, and the edge where nothing is saved."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refimpl import lowrank

SPECTRA = st.lists(st.floats(0.01, 10), min_size=1, max_size=20).map(
    lambda v: torch.tensor(sorted(v, reverse=True), dtype=torch.float64)
)


@pytest.mark.parametrize(
    ("m", "n", "rank"),
    [(768, 768, 383), (768, 3072, 614), (4096, 11008, 2985), (2, 2, 0), (1, 9, 0), (1, 1, 0), (4, 4, 1)],
)
def test_break_even_by_hand(m, n, rank):
    """768 x 768: r < 384. 768 x 3072: 614.4. 2 x 2: even rank 1 has four entries."""
    assert lowrank.break_even_rank(m, n) == lowrank.break_even_rank(n, m) == rank


@given(st.integers(1, 400), st.integers(1, 400))
def test_break_even_is_the_last_rank_that_saves(m, n):
    r = lowrank.break_even_rank(m, n)
    assert r * (m + n) < m * n <= (r + 1) * (m + n)
    assert r < min(m, n)


@given(st.integers(2, 300), st.integers(2, 300), st.integers(1, 99))
def test_rank_for_keep_is_the_largest_within_the_budget(m, n, percent):
    r = lowrank.rank_for_keep(m, n, percent / 100)
    budget = Fraction(percent, 100) * m * n
    assert r * (m + n) <= budget < (r + 1) * (m + n)
    assert r <= lowrank.break_even_rank(m, n)


def test_rank_for_keep_by_hand():
    """n x n at keep .8: r = .4 n. And a rank named exactly is not lost to rounding."""
    assert lowrank.rank_for_keep(1000, 1000, 0.8) == 400
    assert lowrank.rank_for_keep(100, 100, 0.58) == 29  # 0.58 * 10000 / 200 is 28.999999999999996
    assert lowrank.rank_for_keep(4, 4, 0.4) == 0
    assert lowrank.rank_for_keep(1, 9, 0.9) == lowrank.rank_for_keep(9, 1, 0.9) == 0
    assert lowrank.rank_for_keep(384, 1536, 0.5) == lowrank.rank_for_keep(1536, 384, 0.5) == 153


def test_rank_for_energy_by_hand():
    """Squares 16, 9, 4, 1 of 30: .5 needs one value, 25/30 two, and just above it three."""
    s = torch.tensor([4.0, 3.0, 2.0, 1.0])
    wanted = [(0.5, 1), (16 / 30, 1), (0.54, 2), (25 / 30, 2), (0.84, 3), (29 / 30, 3), (0.97, 4), (1.0, 4)]
    for energy, rank in wanted:
        assert lowrank.rank_for_energy(s, energy) == rank, energy
    assert lowrank.rank_for_energy(torch.tensor([2.0, 0.0, 0.0]), 1.0) == 1
    assert lowrank.rank_for_energy(torch.zeros(3), 0.9) == 1


def test_room_for_rounding_and_no_more():
    """Ten equal values: .3 of the energy is three of them, whatever the sums round to; .3 + 1e-9 is four."""
    s = torch.full((10,), 0.1)
    assert [lowrank.rank_for_energy(s, k / 10) for k in range(1, 11)] == list(range(1, 11))
    assert lowrank.rank_for_energy(s, 0.3 + 1e-9) == 4
    assert lowrank.rank_for_energy(torch.ones(2), 0.5 + 1e-12) == 1


def test_energies_are_summed_in_fp64():
    """1 + 4,000 squares of 1e-8: in fp32 the small ones vanish one by one."""
    s = torch.cat([torch.ones(1), torch.full((4000,), 1e-4)])
    assert lowrank.rank_for_energy(s, (1 + 2000e-8) / (1 + 4000e-8)) in (2000, 2001, 2002)
    assert lowrank.cumulative_energy(s).dtype == torch.float64


@given(SPECTRA, st.floats(0.01, 1))
def test_rank_for_energy_is_the_smallest(s, energy):
    r = lowrank.rank_for_energy(s, energy)
    squared = s**2
    assert squared[:r].sum() >= energy * squared.sum() * (1 - 1e-9)
    assert squared[: r - 1].sum() < energy * squared.sum() * (1 + 1e-9)


def test_cumulative_energy_by_hand():
    torch.testing.assert_close(
        lowrank.cumulative_energy(torch.tensor([2.0, 1.0, 0.0])),
        torch.tensor([0.8, 1, 1], dtype=torch.float64),
    )
    assert lowrank.cumulative_energy(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_truncation_error_by_hand():
    s = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert lowrank.truncation_error(s, 2) == pytest.approx(math.sqrt(5))
    assert lowrank.truncation_error(s, 0) == pytest.approx(math.sqrt(30))
    assert lowrank.truncation_error(s, 4) == 0.0
    assert [lowrank.truncation_error(s, r, "spectral") for r in range(5)] == [4, 3, 2, 1, 0]


@given(SPECTRA)
def test_stable_rank_is_at_most_effective_rank_is_at_most_k(s):
    stable, effective = lowrank.stable_rank(s), lowrank.effective_rank(s)
    assert stable >= 1 - 1e-9 and effective <= len(s) * (1 + 1e-9)
    assert effective >= 1 - 1e-9


def test_stable_rank_by_hand():
    """Squares 16, 9, 4, 1 over 16."""
    assert lowrank.stable_rank(torch.tensor([4.0, 3.0, 2.0, 1.0])) == pytest.approx(30 / 16)
    assert lowrank.stable_rank(torch.full((7,), 0.3)) == pytest.approx(7)
    assert lowrank.stable_rank(torch.zeros(2)) == 0.0


def test_effective_rank_by_hand():
    """k equal values: k. One value: 1. Two, 3:1: exp(H(.75, .25))."""
    assert lowrank.effective_rank(torch.full((7,), 0.3)) == pytest.approx(7)
    assert lowrank.effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1)
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert lowrank.effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(expected)
    assert lowrank.effective_rank(torch.zeros(2)) == 0.0


def test_equal_singular_values_are_in_order():
    assert lowrank.stable_rank(torch.tensor([1.0, 1.0])) == 2
    assert lowrank.rank_for_energy(torch.tensor([1.0, 0.0]), 0.5) == 1
