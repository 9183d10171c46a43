"""refimpl.recipes.baselines: counts by hand, distributions that sum to one, and a chain's exact posterior."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from refimpl.recipes import bigram, score_masked, score_next, unigram

TOKENS = torch.tensor([0, 1, 0, 2, 0, 1])


def test_unigram_by_hand():
    assert unigram(TOKENS, 4).tolist() == pytest.approx([4 / 10, 3 / 10, 2 / 10, 1 / 10])


def test_bigram_by_hand():
    """0 is followed by 1, 2, 1: c = 3, T = 2; 1 by 0: c = 1, T = 1; 3 by nothing."""
    p = [0.4, 0.3, 0.2, 0.1]
    table = bigram(TOKENS, 4)
    assert table[0].tolist() == pytest.approx(
        [(0 + 2 * p[0]) / 5, (2 + 2 * p[1]) / 5, (1 + 2 * p[2]) / 5, 2 * p[3] / 5]
    )
    assert table[1].tolist() == pytest.approx([(1 + p[0]) / 2, p[1] / 2, p[2] / 2, p[3] / 2])
    assert table[3].tolist() == pytest.approx(p)


def test_tables_are_distributions():
    tokens = torch.randint(0, 30, (200,), generator=torch.Generator().manual_seed(0))
    assert unigram(tokens, 40).sum() == pytest.approx(1)
    assert torch.allclose(bigram(tokens, 40).sum(1), torch.ones(40))
    assert (bigram(tokens, 40) > 0).all()


def test_next_by_hand():
    ids = torch.tensor([[0, 1], [3, 0]])
    labels = torch.tensor([[1, 2], [0, -100]])
    one, two = unigram(TOKENS, 4), bigram(TOKENS, 4)
    found = score_next(two, ids, labels)
    expected = -(math.log(two[0, 1]) + math.log(two[1, 2]) + math.log(two[3, 0])) / 3
    assert (found.nats, found.tokens) == (pytest.approx(expected), 3)
    assert found.accuracy == pytest.approx(
        2 / 3
    )  # after 0 comes 1, right; after 1 comes 0, wrong; after 3, 0
    found = score_next(one, ids, labels)
    assert found.nats == pytest.approx(-(math.log(0.3) + math.log(0.2) + math.log(0.4)) / 3)
    assert found.accuracy == pytest.approx(1 / 3)


def test_masked_is_the_posterior_of_a_chain():
    """Among all sentences of the bigram chain with the same other tokens, the share of those with the label."""
    one, two = unigram(TOKENS, 4), bigram(TOKENS, 4)
    row, mask = [0, 1, 2, 0, 1], 9
    labels = torch.full((1, 5), -100)
    labels[0, 2] = 1
    ids = torch.tensor([[0, 1, mask, 0, 1]])

    def weight(sentence):
        return math.prod(two[a, b].item() for a, b in pairwise(sentence))

    shares = [weight([*row[:2], b, *row[3:]]) for b in range(4)]
    found = score_masked(one, two, ids, labels, mask)
    assert found.nats == pytest.approx(-math.log(shares[1] / sum(shares)), rel=1e-5)
    assert found.accuracy == float(shares[1] == max(shares))
    best = shares.index(max(shares))
    labels[0, 2] = best
    assert score_masked(one, two, ids, labels, mask).accuracy == 1


def test_a_masked_neighbour_says_nothing():
    one, two = unigram(TOKENS, 4), bigram(TOKENS, 4)
    mask = 3
    labels = torch.tensor([[-100, 1, 2, -100], [-100, 0, -100, -100]])
    ids = torch.tensor([[0, mask, mask, 1], [mask, 0, mask, 1]])
    left, right = two[0], one * two[:, 1]  # of the first row's two places
    expected = -(math.log(left[1]) + math.log(right[2] / right.sum()) + math.log(one[0])) / 3
    assert score_masked(one, two, ids, labels, mask).nats == pytest.approx(expected, rel=1e-5)
    plain = score_masked(one, None, ids, labels, mask)
    assert plain.nats == pytest.approx(-(math.log(0.3) + math.log(0.2) + math.log(0.4)) / 3)
    assert plain.accuracy == pytest.approx(1 / 3)


def test_the_token_at_the_place_is_not_looked_at():
    one, two = unigram(TOKENS, 4), bigram(TOKENS, 4)
    labels = torch.tensor([[-100, 1, -100]])
    found = {score_masked(one, two, torch.tensor([[0, b, 2]]), labels, 9).nats for b in (0, 1, 2, 9)}
    assert len(found) == 1
