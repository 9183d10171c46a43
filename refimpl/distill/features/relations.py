"""MiniLM's relations: how the positions of a sequence relate, whatever the widths and heads of the models."""

from __future__ import annotations

import math

from torch import Tensor

from refimpl.checks import check_int, check_tensor
from refimpl.distill.features.attention import kl_over_keys, query_rows
from refimpl.distill.features.common import at_least_fp32, check_finite, no_autocast
from refimpl.distill.positions import check_mask, counted_rows, mean_over

__all__ = ["relation_loss"]


def relation_loss(
    student: Tensor,
    teacher: Tensor,
    relation_heads: int,
    mask: Tensor | None = None,
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """KL between self-relations ``softmax(A A' / sqrt(d_r))``, mean over relation heads and unmasked positions.

    ``A`` is one of a layer's queries, keys or values, all heads side by side. Both models' features are cut
    anew into ``relation_heads`` heads of width ``d_r`` (each model has its own); within each, row ``i`` of the
    relation says how position ``i`` relates to every unmasked position, and
    ``mean_i mean_r KL(R^teacher_ri || R^student_ri)`` compares them, in nats. So neither the widths nor the
    numbers of attention heads have to agree.

    A relation only sees inner products: rotating the features inside one relation head changes nothing.

    MiniLM v2 adds up this loss for queries, keys and values of one layer (the last; of a large teacher an
    upper one), with more relation heads than attention heads. MiniLM v1 is :func:`attention_loss` plus this
    loss for the values, with ``relation_heads`` the number of attention heads.

    Args:
        student: ``[B, L, H_s]``, e.g. ``capture(...).values[-1]``.
        teacher: ``[B, L, H_t]``; gets no gradient.
        relation_heads: divides both widths.
        mask: ``[B, L]``, 1 or True for real positions; None counts all.
        num_items: divisor in place of the number of unmasked positions, for accumulation, as in `kd_loss`.

    Returns:
        A scalar, at least 0 up to rounding.

    Raises:
        TypeError, ValueError: wrong kind or shape, widths that ``relation_heads`` does not divide, nothing to
            average over, NaN or infinity at a position that counts.

    Source: Wang et al. 2021, MiniLM v2 (arXiv 2012.15828); L_VR of Wang et al. 2020, MiniLM v1 (arXiv
    2002.10957).
    """
    check_int("relation_heads", relation_heads, 1)
    check_tensor("student", student, ndim=3, floating=True)
    check_tensor("teacher", teacher, shape=(*student.shape[:2], None), floating=True)
    for name, t in (("student", student), ("teacher", teacher)):
        if t.numel() == 0:
            raise ValueError(f"{name}: got shape {tuple(t.shape)}; takes [B, L, H], not empty")
        if t.shape[-1] % relation_heads:
            raise ValueError(
                f"relation_heads: got {relation_heads}; takes a divisor of the {name}'s width {t.shape[-1]}"
            )
    kept = check_mask(mask, student.shape[:2])
    (a, keys), (b, _) = (
        query_rows(_scores(t, relation_heads, kept), kept, causal=False) for t in (student, teacher.detach())
    )
    loss = mean_over(kl_over_keys(a, b, keys).mean(-1), num_items)
    return check_finite(
        loss,
        lambda: {"student": counted_rows(student, kept), "teacher": counted_rows(teacher, kept)},
        "student, teacher: got inner products that overflow; takes values of smaller size",
    )


def _scores(features: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Inner products of all positions in each relation head, over the root of its width."""
    if mask is not None:  # a product with NaN in padding would be NaN, and so its gradient
        features = features.masked_fill(~mask[..., None], 0)
    a = at_least_fp32(features).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, L, H) -> (B, heads, L, d_r)
    with no_autocast(a):
        return a @ a.transpose(-1, -2) / math.sqrt(a.shape[-1])  # (B, heads, L, L)
