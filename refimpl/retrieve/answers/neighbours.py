"""Answers from neighbours: the labels of what was found, weighted by how near it is."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_int, check_number, check_tensor

__all__ = ["neighbour_probabilities"]


def neighbour_probabilities(scores: Tensor, labels: Tensor, classes: int, temperature: float = 1.0) -> Tensor:
    """A distribution over classes from the labels of each query's neighbours, ``[Q, classes]`` in fp32.

    ``p(y) = Σ_i 1[label_i = y]·exp(s_i/T) / Σ_i exp(s_i/T)``, over the k neighbours, with ``s`` a score, the higher the
    better: a cosine, or minus a squared distance as in kNN-LM. T → ∞ counts votes, T → 0 takes the nearest one's label.

    Args:
        scores: ``[Q, k]``; -inf where nothing was found. A query that found nothing gets 1/classes everywhere.
        labels: ``[Q, k]``, integers from 0 to ``classes`` − 1; not looked at where the score is -inf.
        classes: how many there are.
        temperature: T.

    Raises:
        TypeError, ValueError: shapes that do not fit, NaN or +inf, labels out of bounds, T of 0 or less.

    Source: Khandelwal et al. 2020 (arXiv 1911.00172), equation 2.
    """
    check_tensor("scores", scores, ndim=2, floating=True)
    check_tensor("labels", labels, shape=scores.shape)
    check_int("classes", classes, 1)
    check_number("temperature", temperature, 0, low_open=True)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels: got dtype {labels.dtype}; takes integers")
    scores = scores.float()
    if bool(torch.isnan(scores).any()) or bool((scores == torch.inf).any()):
        raise ValueError("scores: got NaN or infinity; takes numbers, and -inf where nothing was found")
    there = scores > -torch.inf
    if bool((there & ((labels < 0) | (labels >= classes))).any()):
        raise ValueError(f"labels: got one outside 0 to {classes - 1}; takes those")
    best = scores.amax(1, keepdim=True)
    # the best one first, so that no small T overflows; a row of -inf only has no softmax
    weights = ((scores - best) / temperature).softmax(1).nan_to_num(0.0)
    found = torch.zeros(len(scores), classes, device=scores.device)
    found.scatter_add_(1, labels.long().clamp(0, classes - 1), weights * there)
    return torch.where(there.any(1, keepdim=True), found, 1.0 / classes)
