"""The course's shared measure of an encoder: does it find the documentation that a summary line came from?

task = docs_task()
task.score(model, tokenizer)                                    # {"recall@10": ..., "mrr": ...}
difference(task.ranks(small, tokenizer), task.ranks(model, tokenizer))   # with its 95 % half-width
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor
from refimpl.data import retrieval_pairs
from refimpl.retrieve import encode, encode_cached

__all__ = ["RetrievalTask", "difference", "docs_task", "metrics"]

# The first words of a document are enough to know it by, and few enough to leave something to find wrong.
DOCUMENT_WORDS = 20


@dataclass(frozen=True)
class RetrievalTask:
    """Query i is answered by document i and by no other; ids are the dotted names both came from."""

    ids: tuple[str, ...]
    queries: tuple[str, ...]
    documents: tuple[str, ...]

    def ranks(self, model: Any, tokenizer: Any, max_length: int = 96, batch_size: int = 32) -> Tensor:
        """Rank of each query's document among all, ``[N]`` int64, 1 is best; a tie counts as lost.

        Embeddings are means over real positions, normalised; similarity is their inner product; the
        search is exact. (A tie is lost, or a broken model that maps all texts to one point were perfect.)
        What an earlier call on this machine computed is read back (`refimpl.retrieve.encode_cached`).

        Raises:
            ValueError: the model gives NaN or infinity; and as `refimpl.retrieve.encode`.
        """
        options = {"pooling": "mean", "normalize": True, "max_length": max_length, "batch_size": batch_size}
        state = getattr(model, "state_dict", dict)()
        # PyTorch's own quantized layers pack what they have: no checksum tells them apart
        run = encode_cached if all(isinstance(value, Tensor) for value in state.values()) else encode
        vectors = [run(model, tokenizer, list(texts), **options) for texts in (self.queries, self.documents)]
        queries, documents = (check_tensor("embeddings", v.float(), ndim=2, finite=True) for v in vectors)
        scores = queries @ documents.T  # (N, N)
        return (scores >= scores.diagonal().unsqueeze(1)).sum(1)

    def score(
        self, model: Any, tokenizer: Any, max_length: int = 96, batch_size: int = 32
    ) -> dict[str, float]:
        """Recall at 10 and mean reciprocal rank of ``model``: see `ranks` and `metrics`."""
        return metrics(self.ranks(model, tokenizer, max_length, batch_size))


def docs_task(split: str | None = "test", limit: int | None = None, seed: int = 0) -> RetrievalTask:
    """Documentation of numpy, scipy, scikit-learn, matplotlib and networkx, each text cut to 20 words.

    Args:
        split: modules on that side only (`refimpl.data.retrieval_pairs`); the test side has 984 pairs
            with the pinned versions, on which all-MiniLM-L6-v2 gets recall@10 0.75 and MRR 0.55.
        limit: at most so many pairs. Fewer documents are easier to tell apart: compare equal limits only.
        seed: of the draw of a limit.
    """
    pairs = retrieval_pairs(split, limit=limit, seed=seed)
    return RetrievalTask(
        tuple(p.id for p in pairs),
        tuple(p.query for p in pairs),
        tuple(" ".join(p.document.split()[:DOCUMENT_WORDS]) for p in pairs),
    )


def metrics(ranks: Tensor) -> dict[str, float]:
    """``recall@10``, the share of ranks up to 10, and ``mrr``, the mean of 1/rank.

    Raises:
        ValueError: not one dimension, no ranks, or a rank below 1.
    """
    return {name: float(values.mean()) for name, values in _per_query(ranks).items()}


def difference(
    ranks: Tensor, baseline: Tensor, *, resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """What ``ranks`` gain over ``baseline`` for the same queries, with the half-width of a 95 % interval.

    For each metric ``(mean difference, half-width)``: the queries are drawn again with replacement, both
    models keeping each drawn query (a paired bootstrap), and the half-width is half the distance from the
    2.5th to the 97.5th percentile of the means. A difference smaller than it may be chance.

    Raises:
        ValueError: ranks of different length, none, or below 1.
    """
    check_int("resamples", resamples, 100)
    ours, theirs = _per_query(ranks), _per_query(baseline, "baseline")
    if len(ranks) != len(baseline):
        raise ValueError(f"baseline: got {len(baseline)} ranks; takes {len(ranks)}, of the same queries")
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    drawn = torch.randint(len(ranks), (resamples, len(ranks)), generator=generator)  # (R, N)
    result = {}
    for name in ours:
        gain = ours[name] - theirs[name]  # (N,)
        low, high = gain[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=gain.dtype))
        result[name] = (float(gain.mean()), float(high - low) / 2)
    return result


def _per_query(ranks: Tensor, name: str = "ranks") -> dict[str, Tensor]:
    check_tensor(name, ranks, ndim=1, finite=True)
    if len(ranks) == 0 or int(ranks.min()) < 1:
        raise ValueError(f"{name}: got none, or one below 1; takes at least one rank, the best is 1")
    ranks = ranks.double()
    return {"recall@10": (ranks <= 10).double(), "mrr": 1 / ranks}
