"""Exact search by hand, against a naive loop and against faiss and scikit-learn; the measures by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.retrieve import exact, exact_search, mean_reciprocal_rank, recall_at_k

QUERY = torch.tensor([[3.0, 4.0]])
DOCUMENTS = torch.tensor([[1.0, 0], [0, 2], [6, 8], [-3, -4]])


@pytest.mark.parametrize(
    ("metric", "scores", "indices"),
    [
        ("cosine", [1.0, 0.8, 0.6, -1.0], [2, 1, 0, 3]),
        ("ip", [50.0, 8.0, 3.0, -25.0], [2, 1, 0, 3]),
        ("l2", [-13.0, -20.0, -25.0, -100.0], [1, 0, 2, 3]),
    ],
)
def test_by_hand(metric, scores, indices):
    got, where = exact_search(QUERY, DOCUMENTS, 4, metric)
    torch.testing.assert_close(got, torch.tensor([scores]))
    assert where.tolist() == [indices]
    assert where.dtype == torch.int64


def test_the_metric_is_cosine_and_at_most_n_results_come():
    got, where = exact_search(QUERY, DOCUMENTS, 9)
    assert where.tolist() == [[2, 1, 0, 3]]
    torch.testing.assert_close(got, exact_search(QUERY, DOCUMENTS, 4, "cosine")[0])
    assert exact_search(QUERY[:0], DOCUMENTS, 2)[1].shape == (0, 2)


@settings(max_examples=40, deadline=None)
@given(
    q=st.integers(1, 9),
    n=st.integers(1, 23),
    k=st.integers(1, 8),
    seed=st.integers(0, 999),
    metric=st.sampled_from(["cosine", "ip", "l2"]),
)
def test_blocks_change_nothing(q, n, k, seed, metric):
    """Against a loop over pairs in fp64, with blocks far smaller than the data."""
    generator = torch.Generator().manual_seed(seed)
    queries, documents = torch.randn(q, 5, generator=generator), torch.randn(n, 5, generator=generator)
    before = exact.QUERY_BLOCK, exact.DOCUMENT_BLOCK
    exact.QUERY_BLOCK, exact.DOCUMENT_BLOCK = 4, 7
    try:
        scores, where = exact_search(queries, documents, k, metric)
    finally:
        exact.QUERY_BLOCK, exact.DOCUMENT_BLOCK = before
    assert scores.shape == where.shape == (q, min(k, n))
    for i in range(q):
        a, naive = queries[i].double().numpy(), []
        for b in documents.double().numpy():
            ip = float(sum(a * b))
            cosine = ip / math.sqrt(float(sum(a * a)) * float(sum(b * b)))
            naive.append({"ip": ip, "cosine": cosine, "l2": -float(sum((a - b) ** 2))}[metric])
        best = sorted(range(n), key=lambda j: -naive[j])[:k]
        assert where[i].tolist() == best
        np.testing.assert_allclose(scores[i], [naive[j] for j in best], rtol=1e-4, atol=1e-5)


def test_equals_faiss_and_scikit_learn():
    faiss = pytest.importorskip("faiss")
    neighbours = pytest.importorskip("sklearn.neighbors")
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(20, 16, generator=generator), torch.randn(500, 16, generator=generator)
    index = faiss.IndexFlatIP(16)
    index.add(documents.numpy())
    scores, where = index.search(queries.numpy(), 7)
    got = exact_search(queries, documents, 7, "ip")
    np.testing.assert_allclose(got[0], scores, rtol=1e-5)
    assert got[1].tolist() == where.tolist()
    for metric, name, shift in (("l2", "sqeuclidean", 0.0), ("cosine", "cosine", 1.0)):
        model = neighbours.NearestNeighbors(n_neighbors=7, metric=name, algorithm="brute").fit(documents)
        distances, where = model.kneighbors(queries)
        got = exact_search(queries, documents, 7, metric)
        np.testing.assert_allclose(got[0], shift - distances, rtol=1e-4, atol=1e-5)
        assert got[1].tolist() == where.tolist()


def test_l2_of_close_vectors_does_not_cancel():
    """‖q‖² − 2qᵀd + ‖d‖² of these loses every digit in fp32."""
    queries = torch.full((1, 64), 1000.0)
    documents = queries.repeat(30, 1)
    documents[:, 0] += torch.arange(30) / 100
    scores, where = exact_search(queries, documents, 3, "l2")
    assert where.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(scores, torch.tensor([[0.0, -0.0001, -0.0004]]), rtol=1e-2, atol=1e-6)


def test_block_sizes_are_the_documented_ones():
    assert (exact.QUERY_BLOCK, exact.DOCUMENT_BLOCK) == (256, 32768)


RETRIEVED = torch.tensor([[4, 2, 9], [7, 1, 0], [5, -1, -1]])


def test_recall_by_hand():
    one = torch.tensor([2, 0, 6])
    assert [recall_at_k(RETRIEVED, one, k) for k in (1, 2, 3)] == [
        0.0,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]
    two = torch.tensor([[4, 9], [1, 8], [3, 5]])
    assert [recall_at_k(RETRIEVED, two, k) for k in (1, 2, 3)] == [
        pytest.approx(2 / 6),
        pytest.approx(3 / 6),
        pytest.approx(4 / 6),
    ]


def test_mean_reciprocal_rank_by_hand():
    assert mean_reciprocal_rank(RETRIEVED, torch.tensor([2, 0, 6])) == pytest.approx((1 / 2 + 1 / 3) / 3)
    assert mean_reciprocal_rank(RETRIEVED, torch.tensor([[9, 2], [1, 7], [6, 5]])) == pytest.approx(2.5 / 3)


@settings(max_examples=30, deadline=None)
@given(q=st.integers(1, 6), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_measures_stay_in_their_bounds(q, n, seed):
    generator = torch.Generator().manual_seed(seed)
    ranking = torch.stack([torch.randperm(n, generator=generator) for _ in range(q)])
    relevant = torch.randint(n, (q,), generator=generator)
    values = [recall_at_k(ranking, relevant, k) for k in range(1, n + 1)]
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert values[0] <= mean_reciprocal_rank(ranking, relevant) <= 1.0
    assert recall_at_k(ranking, ranking, n) == 1.0
    place = (ranking == relevant[:, None]).nonzero()[:, 1] + 1
    assert mean_reciprocal_rank(ranking, relevant) == pytest.approx(float((1 / place).mean()))


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: exact_search(QUERY, DOCUMENTS[:, :1], 1), ValueError, "documents: got shape"),
        (lambda: exact_search(QUERY, DOCUMENTS[:0], 1), ValueError, "documents: got none"),
        (lambda: exact_search(QUERY * 0, DOCUMENTS, 1), ValueError, "queries: got a zero vector"),
        (lambda: exact_search(QUERY, DOCUMENTS * 0, 1), ValueError, "documents: got a zero vector"),
        (lambda: exact_search(QUERY, DOCUMENTS / 0, 1), ValueError, "documents: got NaN"),
        (lambda: exact_search(QUERY / 0, DOCUMENTS, 1), ValueError, "queries: got NaN"),
        (lambda: exact_search(QUERY.int(), DOCUMENTS, 1), TypeError, "queries: got dtype"),
        (lambda: exact_search(QUERY[0], DOCUMENTS, 1), ValueError, "queries: got 1 dim"),
        (lambda: exact_search(QUERY, DOCUMENTS, 0), ValueError, "k: got 0"),
        (lambda: exact_search(QUERY, DOCUMENTS, 1, "dot"), ValueError, "metric: got 'dot'"),
        (lambda: recall_at_k(RETRIEVED, torch.tensor([1, 2]), 1), ValueError, "relevant: got 2 queries"),
        (lambda: recall_at_k(RETRIEVED, torch.tensor([1, 2, -1]), 1), ValueError, "negative index"),
        (lambda: recall_at_k(RETRIEVED, torch.tensor([1.0, 2, 1]), 1), TypeError, "relevant: got dtype"),
        (lambda: recall_at_k(RETRIEVED > 0, torch.tensor([1, 2, 1]), 1), TypeError, "retrieved: got dtype"),
        (lambda: recall_at_k(RETRIEVED, torch.tensor([1, 2, 1]), 4), ValueError, "k: got 4"),
        (lambda: recall_at_k(RETRIEVED, torch.tensor([1, 2, 1]), 0), ValueError, "k: got 0"),
        (
            lambda: recall_at_k(RETRIEVED[:0], torch.tensor([], dtype=torch.long), 1),
            ValueError,
            "got nothing",
        ),
        (lambda: mean_reciprocal_rank(RETRIEVED[0], torch.tensor([1])), ValueError, "retrieved: got 1 dim"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


def test_l2_takes_zero_vectors():
    assert exact_search(QUERY * 0, DOCUMENTS, 1, "l2")[1].tolist() == [[0]]
    assert exact_search(QUERY, torch.cat([DOCUMENTS * 0, QUERY]), 1, "ip")[1].tolist() == [[4]]


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: exact_search(QUERY, DOCUMENTS.int(), 1), TypeError, "documents: got dtype"),
        (lambda: mean_reciprocal_rank(RETRIEVED[:, :0], torch.tensor([1, 2, 1])), ValueError, "got nothing"),
        (lambda: recall_at_k(RETRIEVED, torch.ones(3, 0).long(), 1), ValueError, "got nothing"),
        (lambda: recall_at_k(RETRIEVED, torch.ones(3, 1, 1).long(), 1), ValueError, "relevant: got 3 dim"),
    ],
)
def test_more_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e25])
def test_a_cosine_does_not_depend_on_the_length(scale):
    """Squares of such numbers under- or overflow in fp32."""
    queries, documents = torch.randn(3, 8), torch.randn(20, 8)
    expected = exact_search(queries, documents, 5)
    for pair in ((queries * scale, documents), (queries, documents * scale)):
        scores, rows = exact_search(*pair, 5)
        assert torch.equal(rows, expected[1])
        torch.testing.assert_close(scores, expected[0], rtol=1e-5, atol=1e-6)
