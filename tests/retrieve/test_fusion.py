"""refimpl.retrieve.fusion: the joined cosine is the weighted mean of cosines; reciprocal ranks by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity

from refimpl.retrieve import exact_search
from refimpl.retrieve.fusion import concatenate, reciprocal_rank_fusion


def test_the_cosine_of_joined_vectors_is_the_weighted_mean():
    generator = torch.Generator().manual_seed(0)
    one = [torch.randn(5, d, generator=generator) * 10 ** (d - 4) for d in (3, 4, 7)]
    two = [torch.randn(5, d, generator=generator) for d in (3, 4, 7)]
    for weights in (None, [1.0, 2.0, 5.0], [0.0, 1.0, 0.0]):
        joined = cosine_similarity(concatenate(one, weights), concatenate(two, weights))
        own = torch.tensor(weights or [1.0, 1.0, 1.0])
        each = torch.stack([cosine_similarity(a, b) for a, b in zip(one, two, strict=True)])
        torch.testing.assert_close(joined, (own[:, None] * each).sum(0) / own.sum())
    torch.testing.assert_close(concatenate(one, [1.0, 2.0, 5.0]).norm(dim=1), torch.ones(5))


def test_one_modality_is_left_as_it_is():
    generator = torch.Generator().manual_seed(1)
    documents, queries = torch.randn(30, 6, generator=generator), torch.randn(4, 6, generator=generator)
    _, rows = exact_search(queries, documents, 7)
    _, joined = exact_search(concatenate([queries]), concatenate([documents]), 7)
    assert torch.equal(joined, rows)
    assert torch.equal(reciprocal_rank_fusion([rows], 7)[1], rows)
    assert torch.equal(reciprocal_rank_fusion([rows, rows, rows], 7)[1], rows)


def test_ranks_by_hand():
    """Row 3: 1/61 + 1/62; row 5: 1/62 + 1/61 alike, the lower first; row 8 in one ranking only; -1 is nothing."""
    one, two = torch.tensor([[3, 5, 8]]), torch.tensor([[5, 3, -1]])
    scores, rows = reciprocal_rank_fusion([one, two], 4)
    assert rows.tolist() == [[3, 5, 8, -1]]
    torch.testing.assert_close(scores[0, :3], torch.tensor([1 / 61 + 1 / 62, 1 / 61 + 1 / 62, 1 / 63]))
    assert scores[0, 3] == -torch.inf
    _, rows = reciprocal_rank_fusion([one, two], 2, weights=[0.0, 1.0])
    assert rows.tolist() == [[5, 3]]


def test_the_constant_damps_the_first_places():
    """First in one ranking and absent from two, against third in all three."""
    rankings = [torch.tensor([[1, 7, 2]]), torch.tensor([[8, 9, 2]]), torch.tensor([[10, 11, 2]])]
    assert reciprocal_rank_fusion(rankings, 1, constant=60)[1].item() == 2
    assert reciprocal_rank_fusion(rankings, 1, constant=0, weights=[2.0, 1.0, 1.0])[1].item() == 1


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: concatenate([]), ValueError, "vectors: got none"),
        (lambda: concatenate([torch.zeros(1, 2)]), ValueError, "vectors: got a zero vector"),
        (lambda: concatenate([torch.ones(1, 2), torch.ones(2, 2)]), ValueError, "vectors"),
        (lambda: concatenate([torch.ones(1, 2)], [1.0, 2.0]), ValueError, "weights: got 2"),
        (lambda: concatenate([torch.ones(1, 2)], [0.0]), ValueError, "weights: got 0"),
        (lambda: concatenate([torch.ones(1, 2)], [-1.0]), ValueError, "weights: got -1"),
        (lambda: reciprocal_rank_fusion([]), ValueError, "rankings: got none"),
        (lambda: reciprocal_rank_fusion([torch.ones(1, 2)]), TypeError, "rankings: got dtype"),
        (lambda: reciprocal_rank_fusion([torch.ones(1, 2).long()], 0), ValueError, "k: got 0"),
        (
            lambda: reciprocal_rank_fusion([torch.ones(1, 2).long()], constant=-1),
            ValueError,
            "constant: got -1",
        ),
        (lambda: reciprocal_rank_fusion([torch.ones(n, 2).long() for n in (1, 2)]), ValueError, "rankings"),
    ],
)
def test_bad_input(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_joined_vectors_have_length_one_whatever_they_had():
    one, two = torch.randn(4, 6) * 1e-25, torch.randn(4, 3) * 1e25
    torch.testing.assert_close(concatenate([one, two]).norm(dim=1), torch.ones(4))
