"""Losses between a student's and a teacher's outputs: one sum over the vocabulary, one mean over positions.

In every function a *position* is one row of logits: all dimensions but the last are positions, the last
is the vocabulary (or the classes). The value is a mean over positions, so it grows neither with the batch
size, nor with the length, nor with the vocabulary. Shared rules:

- The teacher is detached. Half-precision logits are computed in fp32; the result is fp32 (fp64 for fp64).
- A masked position is cut out before any arithmetic, so NaN in padding changes neither value nor gradient.
- ``num_items`` divides the *sum* over positions. Give it the number of unmasked positions of all the
  batches that are accumulated into one step: the parts then add up to the loss of one large batch, which
  means of parts of different length do not. With ``num_items`` a part without any position is 0; without
  it the mean of nothing is undefined and raises.
- A logit of ``-inf`` is a probability of exactly 0, and ``0 * log 0 = 0``, in the gradient too. Where that
  makes the divergence infinite (a reference that gives weight to what the other excludes), or where an
  unmasked logit is NaN or ``+inf``, the functions raise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl.checks import check_choice, check_int, check_number
from refimpl.distill.positions import check_labels, check_pair, check_result, counted_rows, kl_rows, mean_over

__all__ = ["distillation_loss", "jsd_loss", "kd_loss", "soft_cross_entropy"]

SUM_TOLERANCE = 1e-2  # how far the probabilities of one position may be from 1 (bf16 sums err by 4e-3)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    direction: str = "forward",
    *,
    align: str | None = None,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Soft-target loss: Kullback-Leibler divergence at temperature ``T``, times ``T**2``.

    ``forward``: ``T**2 * mean_i sum_v p_iv * log(p_iv / q_iv)``; ``reverse`` swaps ``p`` and ``q``, where
    ``p = softmax(teacher_logits / T)`` and ``q = softmax(student_logits / T)``. The gradient of the forward
    loss is ``T * (q - p) / N`` for ``N`` positions. Values are in nats.

    Args:
        student_logits: ``[..., V]``, floating point.
        teacher_logits: ``[..., V]``, same positions; gets no gradient.
        temperature: ``T > 0``; divides both logits.
        mask: ``[...]``, 1 or True where a position counts (an ``attention_mask``); None counts all.
        direction: ``"forward"`` is KL(teacher || student), ``"reverse"`` is KL(student || teacher).
        align: what to do when the vocabularies differ in size. None raises. ``"truncate"`` keeps the first
            ``min(V_s, V_t)`` entries of both and renormalises: right when the longer one only has unused
            padding at its end. (Padding logits with zeros is never right: a logit of 0 is not probability 0.)
        num_items: divisor in place of the number of unmasked positions, for accumulation (see the module).

    Returns:
        A scalar, at least 0 up to rounding.

    Raises:
        TypeError, ValueError: wrong kind, shape or range, vocabularies of different size, nothing to
            average over, NaN or ``+inf`` at a position that counts, an infinite divergence.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2: "Since the magnitudes of the gradients
    produced by the soft targets scale as 1/T**2 it is important to multiply them by T**2 when using both
    hard and soft targets."
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    check_choice("direction", direction, ("forward", "reverse"))
    student, teacher, mask = check_pair(student_logits, teacher_logits, mask, align)
    loss = mean_over(_kd(student, teacher, temperature, mask, direction), num_items)
    return check_result(loss, student, teacher, mask)


def jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    beta: float = 0.5,
    *,
    align: str | None = None,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Generalised Jensen-Shannon divergence at temperature ``T``, times ``T**2``.

    ``T**2 * mean_i [beta * KL(p || m) + (1 - beta) * KL(q || m)]`` with ``m = beta * p + (1 - beta) * q``,
    teacher ``p`` and student ``q``, each summed over the vocabulary. ``beta=0.5`` is the symmetric
    divergence, at most ``log 2`` at ``T=1``. Always finite, also where the supports differ.

    The ``T**2`` is there for the reason it is in :func:`kd_loss`: near ``p = q`` the divergence is
    ``beta * (1 - beta)`` times the KL, whose gradient falls as ``1 / T**2``.

    The ends are refused because the formula is 0 there for any student. What remains of it per weight,
    ``jsd_loss / beta`` for ``beta -> 0`` and ``jsd_loss / (1 - beta)`` for ``beta -> 1``, is the forward and
    the reverse :func:`kd_loss`.

    Args:
        beta: weight of the teacher in the mixture, strictly between 0 and 1.
        student_logits, teacher_logits, temperature, mask, align, num_items: as in :func:`kd_loss`.

    Returns:
        A scalar, at least 0 up to rounding.

    Raises:
        TypeError, ValueError: as in :func:`kd_loss`.

    Source: Agarwal et al., ICLR 2024 (arXiv 2306.13649), equation 1.
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    beta = check_number("beta", beta, 0, 1, low_open=True, high_open=True)
    student, teacher, mask = check_pair(student_logits, teacher_logits, mask, align)
    log_q = _log_softmax(student, temperature, mask)
    log_p = _log_softmax(teacher, temperature, mask)
    mixture = beta * log_p.exp() + (1 - beta) * log_q.exp()
    log_m = mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()  # the clamp acts where p = q = 0 only
    per_position = beta * kl_rows(log_p, log_m) + (1 - beta) * kl_rows(log_q, log_m)
    loss = temperature**2 * mean_over(per_position, num_items)
    return check_result(loss, student, teacher, mask)


def soft_cross_entropy(
    student_logits: Tensor,
    target: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the student to given probabilities, times ``T**2``.

    ``-T**2 * mean_i sum_v target_iv * log q_iv`` with ``q = softmax(student_logits / T)``. The target is used
    as it is: a one-hot row gives the ordinary loss, ``softmax(teacher_logits / T)`` gives :func:`kd_loss` and
    ``T**2`` times the teacher's entropy more (a constant, so the gradients are equal), a mean of several
    teachers' probabilities distils the ensemble.

    Args:
        student_logits: ``[..., V]``, floating point.
        target: ``[..., V]``, probabilities that sum to 1 at each position; gets no gradient.
        temperature, mask, num_items: as in :func:`kd_loss`.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: as in :func:`kd_loss`; a counted row of ``target`` is no distribution.
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    student, target, mask = check_pair(student_logits, target, mask, None, "target")
    rows = counted_rows(target, mask)
    if not bool((rows >= 0).all()) or not bool(((rows.sum(-1) - 1).abs() <= SUM_TOLERANCE).all()):
        raise ValueError(
            "target: got rows that are no distribution; takes probabilities that sum to 1 (not logits)"
        )
    log_q = _log_softmax(student, temperature, mask)
    per_position = -(rows * log_q.masked_fill(rows == 0, 0)).sum(-1)
    loss = temperature**2 * mean_over(per_position, num_items)
    return check_result(loss, student, target, mask)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float,
    temperature: float,
    ignore_index: int = -100,
    *,
    mask: Tensor | None = None,
    direction: str = "forward",
    align: str | None = None,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Hard and soft loss mixed: ``(1 - alpha) * CE(labels, q_1) + alpha * T**2 * KL(p_T || q_T)``.

    The hard term is at temperature 1, the soft term is :func:`kd_loss`. A term of weight 0 is not computed.

    Which positions count: the hard term averages over those whose label is not ``ignore_index``. Without
    ``mask`` the soft term averages over the same ones. With ``mask`` it averages over the mask instead,
    whatever the labels: DistilBERT takes the soft term on all tokens, the hard one on the 15 % that were
    masked. Nothing is shifted: for a causal model give ``logits[:, :-1]`` and ``labels[:, 1:]``.

    Args:
        student_logits: ``[..., V]``, floating point.
        teacher_logits: ``[..., V]``, same positions; gets no gradient.
        labels: ``[...]``, integers in ``[0, V)`` or ``ignore_index``; ``V`` is the student's vocabulary.
        alpha: weight of the soft term, 0 to 1.
        temperature: ``T > 0``, for the soft term only.
        ignore_index: the label of positions that do not count.
        mask, direction, align: as in :func:`kd_loss`, for the soft term only.
        num_items: divisor of both sums (see the module); not together with ``mask``, whose count is another.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: as in :func:`kd_loss`, and for a label outside the vocabulary.

    Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2.
    """
    alpha = check_number("alpha", alpha, 0, 1)
    temperature = check_number("temperature", temperature, 0, low_open=True)
    check_choice("direction", direction, ("forward", "reverse"))
    check_int("ignore_index", ignore_index)
    if mask is not None and num_items is not None:
        raise ValueError("num_items: got a value together with mask; takes None, as the terms' counts differ")
    student, teacher, mask = check_pair(student_logits, teacher_logits, mask, align)
    keep = check_labels(labels, student_logits, ignore_index)
    loss = torch.zeros((), device=student.device)
    if alpha < 1:
        log_q = _log_softmax(student_logits, 1.0, keep)
        hard = F.nll_loss(log_q, labels[keep].long(), reduction="none")
        loss = loss + (1 - alpha) * mean_over(hard, num_items, "labels")
    soft_mask, name = (keep, "labels") if mask is None else (mask, "mask")
    if alpha > 0:
        soft = _kd(student, teacher, temperature, soft_mask, direction)
        loss = loss + alpha * mean_over(soft, num_items, name)
    return check_result(loss, student_logits, teacher, keep | soft_mask)


def _kd(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None, direction: str) -> Tensor:
    """T**2 KL of each position that counts."""
    log_q = _log_softmax(student, temperature, mask)
    log_p = _log_softmax(teacher, temperature, mask)
    return temperature**2 * (kl_rows(log_p, log_q) if direction == "forward" else kl_rows(log_q, log_p))


def _log_softmax(logits: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    return F.log_softmax(counted_rows(logits, mask) / temperature, dim=-1)
