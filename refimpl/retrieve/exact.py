"""Exact search: every query against every document, block by block, and how good a list of results is."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_choice, check_int, check_tensor

__all__ = ["exact_search", "mean_reciprocal_rank", "recall_at_k"]

METRICS = ("cosine", "ip", "l2")
QUERY_BLOCK = 256
DOCUMENT_BLOCK = 32768  # a block of scores is 256 x 32,768 x 4 bytes = 34 MB


@torch.no_grad()
def exact_search(queries: Tensor, documents: Tensor, k: int, metric: str = "cosine") -> tuple[Tensor, Tensor]:
    """The k best documents of each query, by comparing it with all of them.

    Scores, the higher the better: cosine qᵀd / (‖q‖·‖d‖); ip qᵀd; l2 −‖q − d‖². Q·N·D multiply-accumulates,
    in fp32; at most 256 × 32,768 scores are held at a time.

    Args:
        queries: ``[Q, D]``, floating point.
        documents: ``[N, D]``, floating point, on the same device.
        k: results a query.
        metric: ``"cosine"``, ``"ip"`` (inner product) or ``"l2"`` (Euclidean distance).

    Returns:
        ``(scores, indices)``, both ``[Q, min(k, N)]``, the best first; fp32 and int64.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes that do not fit, no documents, NaN or infinity, a zero vector under cosine, k < 1.
    """
    check_tensor("queries", queries, ndim=2, floating=True, finite=True)
    check_tensor("documents", documents, shape=(None, queries.shape[1]), floating=True, finite=True)
    check_int("k", k, 1)
    check_choice("metric", metric, METRICS)
    if not len(documents):
        raise ValueError("documents: got none; takes at least one")
    queries, documents = queries.float(), documents.float()
    if metric == "cosine":
        for name, vectors in (("queries", queries), ("documents", documents)):
            if bool((vectors == 0).all(1).any()):
                raise ValueError(f"{name}: got a zero vector; a cosine takes vectors with a direction")
        queries, documents = unit_rows(queries), unit_rows(documents)
    found = [_search_block(block, documents, k, metric) for block in queries.split(QUERY_BLOCK)]
    return torch.cat([s for s, _ in found]), torch.cat([i for _, i in found])


def unit_rows(vectors: Tensor) -> Tensor:
    """Rows ``[N, D]`` of length one; divided by the largest entry first, so that no square over- or underflows."""
    scaled = vectors / vectors.abs().amax(1, keepdim=True)
    return scaled / scaled.norm(dim=1, keepdim=True)


def _search_block(queries: Tensor, documents: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Best k of each block of documents, then best k of those and of what was best so far."""
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(documents), DOCUMENT_BLOCK):
        block = documents[start : start + DOCUMENT_BLOCK]
        if metric == "l2":  # differences, not ‖q‖² − 2qᵀd + ‖d‖², which cancels when q is close to d
            distance = torch.cdist(queries, block, compute_mode="donot_use_mm_for_euclid_dist")
            scores = -distance.square()
        else:
            scores = queries @ block.T  # (Q, D) x (D, block) -> (Q, block)
        top, index = scores.topk(min(k, len(block)), dim=1)
        best, where = torch.cat([best, top], 1), torch.cat([where, index + start], 1)
        best, chosen = best.topk(min(k, best.shape[1]), dim=1)
        where = where.gather(1, chosen)
    return best, where


def recall_at_k(retrieved: Tensor, relevant: Tensor, k: int) -> float:
    """The fraction of relevant items among the first k results, averaged over queries.

    recall@k = mean over queries of |first k of retrieved ∩ relevant| / |relevant|. With one relevant item a
    query it is the fraction of queries that find it; with the exact k nearest as ``relevant`` it is the
    recall of an approximate index.

    Args:
        retrieved: ``[Q, K]`` indices, the best first; a negative one stands for "nothing".
        relevant: ``[Q]`` or ``[Q, R]`` indices, none twice in a row.
        k: 1 to K.

    Raises:
        TypeError: not tensors of integers.
        ValueError: shapes that do not fit, no queries, k over K, a negative index in ``relevant``.
    """
    relevant = _check_ranking(retrieved, relevant)
    check_int("k", k, 1, retrieved.shape[1])
    found = (relevant.unsqueeze(2) == retrieved[:, None, :k]).any(2)  # (Q, R, 1) == (Q, 1, k) -> (Q, R)
    return float(found.double().mean())


def mean_reciprocal_rank(retrieved: Tensor, relevant: Tensor) -> float:
    """MRR = mean over queries of 1 / (rank of the first relevant result), 0 where there is none.

    Args:
        retrieved: ``[Q, K]`` indices, the best first; a negative one stands for "nothing".
        relevant: ``[Q]`` or ``[Q, R]`` indices.

    Raises:
        TypeError: not tensors of integers.
        ValueError: shapes that do not fit, no queries, a negative index in ``relevant``.
    """
    relevant = _check_ranking(retrieved, relevant)
    hit = (relevant.unsqueeze(2) == retrieved.unsqueeze(1)).any(1)  # (Q, K)
    ranks = torch.arange(1, retrieved.shape[1] + 1, dtype=torch.double, device=hit.device)
    return float((hit / ranks).max(1).values.mean())  # the first hit has the largest 1 / rank


def _check_ranking(retrieved: Tensor, relevant: Tensor) -> Tensor:
    """``relevant`` as ``[Q, R]``."""
    check_tensor("retrieved", retrieved, ndim=2)
    check_tensor("relevant", relevant, ndim=(1, 2))
    for name, value in (("retrieved", retrieved), ("relevant", relevant)):
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name}: got dtype {value.dtype}; takes integers")
    if len(relevant) != len(retrieved):
        raise ValueError(f"relevant: got {len(relevant)} queries; takes {len(retrieved)}, as retrieved has")
    if not retrieved.numel() or not relevant.numel():
        raise ValueError("retrieved, relevant: got nothing; takes at least one query and one result")
    if int(relevant.min()) < 0:
        raise ValueError("relevant: got a negative index; takes indices of documents")
    return relevant.unsqueeze(1) if relevant.ndim == 1 else relevant
