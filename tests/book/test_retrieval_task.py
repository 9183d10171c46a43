"""The book's shared measure: ranks by hand, ties lost, and a paired interval that is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from book_kit import retrieval_task
from book_kit.retrieval_task import RetrievalTask, difference, docs_task, metrics

from refimpl.data import retrieval_pairs

TASK = RetrievalTask(("a", "b", "c"), ("q1", "q2", "q3"), ("d1", "d2", "d3"))
VECTORS = {
    "q1": (1.0, 0.0),
    "q2": (0.0, 1.0),
    "q3": (0.8, 0.6),
    "d1": (1.0, 0.0),  # first for q1, second for q3
    "d2": (0.6, 0.8),  # first for q2, second for q1, first for q3
    "d3": (0.0, -1.0),  # last for all
}


@pytest.fixture
def by_table(monkeypatch):
    """Embeddings from the table above; records how they were asked for."""
    calls = []

    def encode(model, tokenizer, texts, **options):
        calls.append((model, tokenizer, options))
        return torch.tensor([model[text] for text in texts])

    monkeypatch.setattr(retrieval_task, "encode_cached", encode)
    return calls


def test_ranks_by_hand(by_table):
    assert TASK.ranks(VECTORS, "tokenizer").tolist() == [1, 1, 3]
    options = {"pooling": "mean", "normalize": True, "max_length": 96, "batch_size": 32}
    assert by_table == [(VECTORS, "tokenizer", options)] * 2
    TASK.score(VECTORS, None, max_length=8, batch_size=2)
    assert by_table[-1][2] == {**options, "max_length": 8, "batch_size": 2}


def test_score_by_hand(by_table):
    score = TASK.score(VECTORS, None)
    assert score == {"recall@10": 1.0, "mrr": pytest.approx((1 + 1 + 1 / 3) / 3)}


def test_a_collapsed_model_gets_nothing_for_it(by_table):
    """All texts at one point: every similarity is equal, and each query's own document comes last."""
    assert TASK.ranks(dict.fromkeys(VECTORS, (1.0, 0.0)), None).tolist() == [3, 3, 3]


def test_nan_is_refused(by_table):
    with pytest.raises(ValueError, match="embeddings: got NaN"):
        TASK.ranks({**VECTORS, "d2": (math.nan, 0.0)}, None)


def test_metrics_by_hand():
    assert metrics(torch.tensor([1, 10, 11, 100])) == {
        "recall@10": 0.5,
        "mrr": pytest.approx((1 + 1 / 10 + 1 / 11 + 1 / 100) / 4),
    }


def test_difference_by_hand():
    """The mean difference is exact, equal models differ by 0 ± 0, and exchanging the two only turns the sign."""
    ours = torch.tensor([1, 1, 1, 20])
    theirs = torch.tensor([2, 11, 1, 20])
    found = difference(ours, theirs)
    assert found["recall@10"][0] == pytest.approx(1 / 4)
    assert found["mrr"][0] == pytest.approx((1 / 2 + 10 / 11) / 4)
    assert difference(ours, ours) == {"recall@10": (0.0, 0.0), "mrr": (0.0, 0.0)}
    gain, width = difference(theirs, ours)["mrr"]
    assert gain == -found["mrr"][0]
    assert width == pytest.approx(found["mrr"][1])


def test_the_half_width_is_that_of_the_normal_law():
    """For many queries the bootstrap's interval is 1.96 standard errors of the paired differences."""
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randint(1, 40, (900,), generator=generator)
    ours = (theirs + torch.randint(-3, 4, (900,), generator=generator)).clamp(min=1)
    gain = (1 / ours.double() - 1 / theirs.double()).numpy()
    wanted = 1.96 * gain.std() / np.sqrt(900)
    assert difference(ours, theirs)["mrr"][1] == pytest.approx(wanted, rel=0.06)
    hits = ((ours <= 10).double() - (theirs <= 10).double()).numpy()
    wanted = 1.96 * hits.std() / np.sqrt(900)
    assert difference(ours, theirs)["recall@10"][1] == pytest.approx(wanted, rel=0.1)


def test_difference_is_seeded():
    ours, theirs = torch.arange(1, 30), torch.arange(1, 30).flip(0)
    assert difference(ours, theirs) == difference(ours, theirs, seed=0, resamples=2000)
    assert difference(ours, theirs) != difference(ours, theirs, seed=1)


def test_refuses():
    with pytest.raises(ValueError, match="baseline: got 2 ranks; takes 1"):
        difference(torch.tensor([1]), torch.tensor([1, 2]))
    for bad in ([], [0], [1, -1]):
        with pytest.raises(ValueError, match="ranks: got none, or one below 1"):
            metrics(torch.tensor(bad, dtype=torch.int64))
    with pytest.raises(ValueError, match="baseline: got none, or one below 1"):
        difference(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="resamples: got 99"):
        difference(torch.tensor([1]), torch.tensor([1]), resamples=99)


def test_docs_task():
    task = docs_task(limit=30)
    pairs = retrieval_pairs("test", limit=30)
    assert task.ids == tuple(p.id for p in pairs)
    assert task.queries == tuple(p.query for p in pairs)
    words = retrieval_task.DOCUMENT_WORDS
    assert task.documents == tuple(" ".join(p.document.split()[:words]) for p in pairs)
    assert docs_task(limit=30, seed=1) != task
    assert len(docs_task().ids) == len(retrieval_pairs("test"))
    assert docs_task("validation", limit=5).ids == tuple(p.id for p in retrieval_pairs("validation", limit=5))


def test_with_the_real_model(minilm):
    """Well, not perfectly, and better than a random model of the same shape."""
    from refimpl.models import build

    task = docs_task(limit=40)
    score = task.score(*minilm)
    assert 0.9 < score["recall@10"] <= 1
    assert 0.6 < score["mrr"] < 0.98
    random = task.score(build("all-MiniLM-L6-v2"), minilm[1])
    assert random["mrr"] < 0.5 * score["mrr"]
