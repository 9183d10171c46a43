"""A student beside its teacher: sums over positions, example by example, so that no batch weighs more."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl.distill.positions import IGNORED, kl_rows

COLUMNS = (
    "labelled",  # positions with a label
    "correct",
    "cross_entropy",
    "teacher_correct",
    "teacher_cross_entropy",
    "compared",  # positions where student and teacher are compared
    "agreed",
    "kl",
)


def sums(student: Tensor, teacher: Tensor | None, labels: Tensor | None, mask: Tensor | None) -> Tensor:
    """Per example, the sums of `COLUMNS`: ``[B, ..., V]`` logits -> ``[B, 8]`` fp64.

    ``labels`` are aligned with the logits. Student and teacher are compared where there is a label, without
    labels where ``mask`` is 1. The divergence is KL(teacher || student) at temperature 1.
    """
    keep = labels != IGNORED if labels is not None else mask
    if keep is None:
        keep = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
    keep = keep.bool()
    found = torch.zeros(len(COLUMNS), *keep.shape, dtype=torch.float64, device=student.device)
    log_q = F.log_softmax(student[keep].float(), -1)  # [B, ..., V] -> [N, V]
    log_p = None if teacher is None else F.log_softmax(teacher[keep].float(), -1)
    if labels is not None:
        target = labels[keep]
        found[0, keep] = 1
        found[1:3, keep] = _against(log_q, target)
        if log_p is not None:
            found[3:5, keep] = _against(log_p, target)
    if log_p is not None:
        shared = min(log_q.shape[-1], log_p.shape[-1])  # the longer vocabulary has unused padding at its end
        found[5, keep] = 1
        found[6, keep] = (log_q.argmax(-1) == log_p.argmax(-1)).double()
        if log_q.shape[-1] != log_p.shape[-1]:
            log_p, log_q = (F.log_softmax(t[:, :shared], -1) for t in (log_p, log_q))
        found[7, keep] = kl_rows(log_p, log_q).double()
    return found.flatten(2).sum(-1).T if found.ndim > 2 else found.T  # [8, B, ...] -> [B, 8]


def metrics(total: Tensor, sequence: bool) -> dict[str, float]:
    """From the sums over all examples, ``[8]``: means over positions; ``sequence`` adds perplexities."""
    sum_of: Mapping[str, float] = dict(zip(COLUMNS, total.tolist(), strict=True))
    found: dict[str, float] = {}
    for who in ("", "teacher_"):
        if sum_of["labelled"] and (not who or sum_of["compared"]):
            entropy = sum_of[f"{who}cross_entropy"] / sum_of["labelled"]
            found[f"{who}accuracy"] = sum_of[f"{who}correct"] / sum_of["labelled"]
            found[f"{who}cross_entropy"] = entropy
            if sequence:
                found[f"{who}perplexity"] = math.exp(min(entropy, 700.0))
    if sum_of["compared"]:
        found["agreement"] = sum_of["agreed"] / sum_of["compared"]
        found["kl"] = sum_of["kl"] / sum_of["compared"]
    return found


def _against(log_q: Tensor, target: Tensor) -> Tensor:
    """Correct (0 or 1) and cross-entropy of each row, [2, N]."""
    correct = (log_q.argmax(-1) == target).double()
    return torch.stack([correct, -log_q.gather(1, target[:, None])[:, 0].double()])
