"""One ranking out of several modalities: vectors joined before the search, or rankings joined after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from refimpl.checks import check_int, check_number, check_tensor
from refimpl.retrieve.exact import unit_rows

__all__ = ["concatenate", "reciprocal_rank_fusion"]


def concatenate(vectors: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Early fusion: unit vectors of several modalities side by side, ``[N, Σ D_m]``, of length 1.

    ``x = (√w₁·x₁/‖x₁‖, √w₂·x₂/‖x₂‖, …) / √Σw``, so that the cosine of two joined vectors is the weighted mean of the modalities' cosines,
    ``Σ w_m cos_m / Σ w_m``. One search, one index; the weights are fixed when it is built.

    Args:
        vectors: for each modality ``[N, D_m]``, row i of each is the same item.
        weights: of the modalities, at least 0, not all 0; None weighs all alike.

    Raises:
        TypeError, ValueError: nothing, shapes that do not fit, zero vectors, NaN or infinity; weights that do not fit.
    """
    if not vectors:
        raise ValueError("vectors: got none; takes at least one modality")
    own = _checked_weights(weights, len(vectors))
    for given in vectors:
        check_tensor("vectors", given, shape=(len(vectors[0]), None), floating=True, finite=True)
        if bool((given == 0).all(1).any()):
            raise ValueError("vectors: got a zero vector; a cosine takes vectors with a direction")
    parts = [(w / sum(own)) ** 0.5 * unit_rows(v.float()) for w, v in zip(own, vectors, strict=True)]
    return torch.cat(parts, dim=1)


def reciprocal_rank_fusion(
    rankings: Sequence[Tensor], k: int = 10, weights: Sequence[float] | None = None, constant: int = 60
) -> tuple[Tensor, Tensor]:
    """Late fusion: ``score(d) = Σ_m w_m / (constant + rank_m(d))`` over the rankings that have d, rank 1 the best.

    Only ranks count, so scores of different scales need no calibration. ``constant`` damps the first places.

    Args:
        rankings: for each modality ``[Q, K_m]`` rows, the best first, none twice; -1 stands for nothing.
        k: results a query.
        weights: of the modalities, at least 0, not all 0; None weighs all alike.
        constant: 60 in the source.

    Returns:
        ``(scores, rows)``, both ``[Q, k]``, the best first, of equal scores the lower row; -inf and -1 where there are fewer.

    Raises:
        TypeError, ValueError: nothing, no integers, shapes that do not fit, weights that do not fit, k below 1.

    Source: Cormack, Clarke, Büttcher 2009.
    """
    if not rankings:
        raise ValueError("rankings: got none; takes at least one")
    own = _checked_weights(weights, len(rankings))
    check_int("k", k, 1)
    check_int("constant", constant, 0)
    for given in rankings:
        check_tensor("rankings", given, shape=(len(rankings[0]), None))
        if given.is_floating_point() or given.dtype == torch.bool:
            raise TypeError(f"rankings: got dtype {given.dtype}; takes integers")
    queries = len(rankings[0])
    scores = torch.full((queries, k), -torch.inf)
    rows = torch.full((queries, k), -1)
    for query in range(queries):
        total: dict[int, float] = {}
        for weight, ranking in zip(own, rankings, strict=True):
            for rank, row in enumerate(ranking[query].tolist(), 1):
                if row >= 0:
                    total[row] = total.get(row, 0.0) + weight / (constant + rank)
        best = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:k]
        for place, (row, score) in enumerate(best):
            scores[query, place], rows[query, place] = score, row
    return scores, rows


def _checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise ValueError(f"weights: got {len(weights)}; takes {count}, one for each modality")
    own = [check_number("weights", w, 0) for w in weights]
    if sum(own) == 0:
        raise ValueError("weights: got 0 for all; takes one above 0")
    return own
