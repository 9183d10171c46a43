"""The teacher's k most likely entries of each position, and the loss against them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl.checks import check_choice, check_int, check_number, check_tensor
from refimpl.distill.positions import check_mask, check_result, counted_rows, kl_rows, mean_over
from refimpl.distill.terms import POSITIONS, Term, mask_of

if TYPE_CHECKING:
    from refimpl.distill.targets import Targets

__all__ = ["stored_term", "topk_kd_loss", "topk_targets"]


def topk_targets(teacher_logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """What is kept of the teacher: ``values`` and ``indices`` of its k largest logits, and ``logsumexp`` of all.

    Logits are kept relative to the largest of their row (a softmax does not see the difference), so that
    fp16 is finest where the probabilities are largest: ``log p`` of an entry is off by at most 1/2048 of its
    distance to the largest one. ``logsumexp = log sum_v exp(value_v / T)`` takes the k entries as they were
    rounded and the others exactly, so kept and left-out mass add up to 1.

    Args:
        teacher_logits: ``[..., V]``, finite.
        k: entries kept, 1 to ``V``.
        temperature: the ``T`` at which the left-out mass will be known.

    Returns:
        ``values`` ``[..., k]`` fp16, descending, at most 0; ``indices`` ``[..., k]`` int64; ``logsumexp``
        ``[...]`` fp32.

    Raises:
        TypeError, ValueError: wrong kind or shape, NaN or infinity, ``k`` out of range.
    """
    check_tensor("teacher_logits", teacher_logits, floating=True, finite=True)
    if teacher_logits.ndim == 0 or teacher_logits.shape[-1] == 0:
        raise ValueError(f"teacher_logits: got shape {tuple(teacher_logits.shape)}; takes [..., V]")
    check_int("k", k, 1, teacher_logits.shape[-1])
    temperature = check_number("temperature", temperature, 0, low_open=True)
    logits = teacher_logits.detach().to(torch.promote_types(teacher_logits.dtype, torch.float32))
    logits = logits - logits.amax(-1, keepdim=True)
    values, indices = logits.topk(k, -1)
    values = values.clamp_min(torch.finfo(torch.float16).min).half()
    # the largest is 0, so no sum below overflows
    total = logits.scatter(-1, indices, values.to(logits.dtype)).div_(temperature).logsumexp(-1)
    return values, indices, total.float()


def topk_kd_loss(
    student_logits: Tensor,
    values: Tensor,
    indices: Tensor,
    logsumexp: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    rest: str = "bucket",
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """`kd_loss` (forward) against the teacher's k largest logits, ``T**2 * mean_i KL``.

    ``rest="bucket"``: the k entries keep their probabilities ``p_v = exp(value_v / T - logsumexp)``; all others
    are one more entry, with what is left of 1 on either side. It is the exact divergence of the two coarser
    distributions, hence never above that of the full ones, and grows towards it with k.

    ``rest="renormalize"``: both distributions are restricted to the k entries and sum to 1 there. The student
    is free outside them, and the teacher's confidence is overstated; ``logsumexp`` is not used.

    With ``k = V`` both are `kd_loss`.

    Args:
        student_logits: ``[..., V]``, floating point.
        values, indices, logsumexp: from `topk_targets`, ``[..., k]``, ``[..., k]``, ``[...]``, the last at this
            ``temperature`` (it cannot be computed for another one from what was kept).
        temperature, mask, num_items: as in `kd_loss`.
        rest: what becomes of the entries that were left out.

    Returns:
        A scalar.

    Raises:
        TypeError, ValueError: as in `kd_loss`; indices outside the student's vocabulary or twice in a row.

    The bound is the log-sum inequality (Cover and Thomas 2006, theorem 2.7.1), applied to the bucket.
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    check_choice("rest", rest, ("bucket", "renormalize"))
    check_tensor("values", values, floating=True)
    check_tensor("student_logits", student_logits, floating=True)
    if student_logits.ndim == 0 or values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"values: got shape {tuple(values.shape)}; takes [..., k], the student's [..., V]")
    positions, size = student_logits.shape[:-1], student_logits.shape[-1]
    check_tensor("values", values, shape=(*positions, None))
    check_tensor("indices", indices, shape=values.shape)
    check_tensor("logsumexp", logsumexp, shape=positions, floating=True)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"indices: got dtype {indices.dtype}; takes integers")
    kept = check_mask(mask, positions)
    index = indices.reshape(-1, indices.shape[-1]) if kept is None else indices[kept]
    index = index.long()  # [..., k] -> [N, k]
    if bool(((index < 0) | (index >= size)).any()):
        raise ValueError(f"indices: got an entry outside 0 to {size - 1}; takes the student's vocabulary")
    if bool((index.sort(-1).values.diff(dim=-1) == 0).any()):
        raise ValueError("indices: got an entry twice at one position; takes each once")
    z = counted_rows(student_logits, kept) / temperature  # [N, V]
    t = counted_rows(values.detach(), kept).to(z.dtype) / temperature  # [N, k]
    if values.shape[-1] == size:  # all are kept: in their places, and so bit for bit what kd_loss gives
        log_p = F.log_softmax(torch.empty_like(z).scatter_(-1, index, t), -1)
        log_q = F.log_softmax(z, -1)
    elif rest == "renormalize":
        log_p = F.log_softmax(t, -1)
        log_q = F.log_softmax(z.gather(-1, index), -1)
    else:
        total = counted_rows(logsumexp.detach()[..., None], kept).to(z.dtype)  # [N, 1]
        log_p = t - total
        left = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(0)
        log_p = torch.cat([log_p, left.log()], -1)  # [N, k + 1]
        others = z.scatter(-1, index, -math.inf).logsumexp(-1, keepdim=True)
        log_q = torch.cat([z.gather(-1, index), others], -1) - z.logsumexp(-1, keepdim=True)
    loss = mean_over(temperature**2 * kl_rows(log_p, log_q), num_items)
    return check_result(loss, student_logits, values, kept)


def stored_term(
    targets: Targets, over: str = "tokens", rest: str = "bucket", column: str = "example"
) -> Term:
    """`topk_kd_loss` against targets on disk, for `DistillationTrainer` without a teacher.

    Args:
        targets: from `open_targets`, written with the batches' ``attention_mask``.
        over: as in `soft_term`.
        rest: as in `topk_kd_loss`.
        column: the entry of the data with each example's number in ``targets``.

    Raises:
        TypeError, ValueError: no targets, an unknown ``over`` or ``rest``.
    """
    if not hasattr(targets, "gather"):
        raise TypeError(f"targets: got {type(targets).__name__}; takes what open_targets gives")
    check_choice("over", over, POSITIONS)
    check_choice("rest", rest, ("bucket", "renormalize"))

    def loss(student: Any, _: Any, inputs: dict[str, Any]) -> Tensor:
        logits = student.logits
        written = mask_of("tokens", inputs, logits) if logits.ndim > 2 else None
        if written is None:
            written = torch.ones(logits.shape[:-1], dtype=torch.bool, device=logits.device)
        found = targets.gather(inputs[column], written)
        mask = mask_of(over, inputs, logits)
        return topk_kd_loss(logits, *found, targets.temperature, mask, rest, num_items=1)

    return Term(loss, over=over, reduction="sum", teacher=False, columns=(column,), name="stored")
