"""The distillation loss of a large vocabulary, without ever holding the logits of all tokens.

The plain loss holds several tensors ``[tokens, V]``: two of logits, two of log-probabilities, and as many
again for their gradients. Here the rows are taken in chunks::

    for rows in chunks:                                      # [C, d]
        z = student_hidden[rows] @ student_weight'           # [C, V]   logits of the student
        t = teacher_hidden[rows] @ teacher_weight'           # [C, V]   logits of the teacher
        loss += ...                                          #          then z becomes dL/dz, in place
        d student_hidden[rows] = z @ student_weight          # [C, d]
        d student_weight      += z' @ student_hidden[rows]   # [V, d]

The gradients are computed in the forward pass, so each product with the vocabulary is done once; backward
only scales them by the gradient of what follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl.checks import check_choice, check_int, check_number, check_tensor
from refimpl.distill.features.common import at_least_fp32, no_autocast
from refimpl.distill.positions import check_labels, check_mask, mean_over

__all__ = ["chunked_kd_loss"]

CHUNK = 64  # rows; tests/bench/distill.py measures memory and time


class _Settings(NamedTuple):
    temperature: float
    direction: str
    chunk: int
    soft: float  # factor of the soft term's sum over positions
    hard: float


def chunked_kd_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    direction: str = "forward",
    *,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    ignore_index: int = -100,
    chunk: int = CHUNK,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """`kd_loss`, or with labels `distillation_loss`, from hidden states and output matrices, chunk by chunk.

    With ``z = student_hidden @ student_weight.T + student_bias`` and ``t`` likewise it is
    ``alpha * kd_loss(z, t, temperature, mask, direction) + (1 - alpha) * CE(z, labels)``: the same value and
    the same gradients. Memory beyond the gradients is four chunks of logits (``4 * chunk * V`` numbers; five with
    labels) instead of several times ``tokens * V``, and an fp32 copy of the matrices if they are in half.

    Which positions count is as in `distillation_loss`: the hard term averages over the labels that are not
    ``ignore_index``; the soft term over the mask, without a mask over those labels, without labels over all.
    Nothing is shifted.

    Arithmetic is in fp32 at least (fp64 for fp64), whatever the inputs and autocast; the gradients have the
    inputs' dtypes.

    Args:
        student_hidden: ``[..., d_s]``, what the student's output layer is given.
        student_weight: ``[V, d_s]``, e.g. ``model.get_output_embeddings().weight``.
        teacher_hidden: ``[..., d_t]``, same positions; no gradient.
        teacher_weight: ``[V, d_t]``; no gradient.
        temperature: ``T > 0``, for the soft term only.
        mask: ``[...]``, 1 or True where a position counts for the soft term.
        direction: ``"forward"`` or ``"reverse"``, as in `kd_loss`.
        labels: ``[...]``, integers in ``[0, V)`` or ``ignore_index``; needed for ``alpha < 1``.
        alpha: weight of the soft term, 0 to 1.
        chunk: rows at a time: memory and speed, not the result.
        student_bias, teacher_bias: ``[V]``, of the output layers.
        num_items: divisor of both sums in place of the counts, as in `kd_loss`; not with both mask and labels.

    Returns:
        A scalar. It can be differentiated once: gradients of gradients raise.

    Raises:
        TypeError, ValueError: wrong kind, shape or range; vocabularies of different size; nothing to average
            over; a label outside the vocabulary; NaN or infinity at a position that counts.

    Source: the idea of computing the gradient of the output layer chunk by chunk in the forward pass: Hsu et
    al. 2024, Liger Kernel (arXiv 2410.10989), section 3.2, FusedLinearCrossEntropy.
    """
    temperature = check_number("temperature", temperature, 0, low_open=True)
    check_choice("direction", direction, ("forward", "reverse"))
    alpha = check_number("alpha", alpha, 0, 1)
    check_int("ignore_index", ignore_index)
    check_int("chunk", chunk, 1)
    _check_layer("student", student_hidden, student_weight, student_bias)
    _check_layer("teacher", teacher_hidden, teacher_weight, teacher_bias)
    positions = student_hidden.shape[:-1]
    check_tensor("teacher_hidden", teacher_hidden, shape=(*positions, None))
    if student_weight.shape[0] != teacher_weight.shape[0]:
        raise ValueError(
            f"teacher_weight: got a vocabulary of {teacher_weight.shape[0]}; takes the student's {student_weight.shape[0]}"
        )
    if labels is None and alpha < 1:
        raise ValueError(f"labels: got None; takes labels for the hard term, of weight {1 - alpha:g}")
    if mask is not None and labels is not None and num_items is not None:
        raise ValueError(
            "num_items: got a value together with mask and labels; takes None, as the counts differ"
        )
    shape = student_hidden[..., :1].expand(*positions, student_weight.shape[0])  # of the logits; no memory
    hard = None if labels is None else check_labels(labels, shape, ignore_index)
    soft = check_mask(mask, positions) if mask is not None else hard
    if soft is None:
        soft = torch.ones(positions, dtype=torch.bool, device=student_hidden.device)
    how = _Settings(
        temperature,
        direction,
        chunk,
        alpha / _divisor(num_items, soft, "labels" if mask is None else "mask") if alpha > 0 else 0.0,
        (1 - alpha) / _divisor(num_items, hard, "labels") if hard is not None and alpha < 1 else 0.0,
    )
    loss = _Chunked.apply(
        student_hidden,
        student_weight,
        student_bias,
        teacher_hidden.detach(),
        teacher_weight.detach(),
        None if teacher_bias is None else teacher_bias.detach(),
        soft.reshape(-1) if how.soft else None,
        hard.reshape(-1) if hard is not None and how.hard else None,
        None if labels is None else labels.reshape(-1).long(),
        how,
        torch.is_grad_enabled(),
    )
    if not bool(torch.isfinite(loss)):
        raise ValueError(
            "student_hidden, teacher_hidden: got NaN or infinite logits at a position that counts; takes finite values"
        )
    return loss


class _Chunked(torch.autograd.Function):
    """The loop of the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        teacher_bias: Tensor | None,
        soft: Tensor | None,
        hard: Tensor | None,
        labels: Tensor | None,
        how: _Settings,
        wanted: bool,
    ) -> Tensor:
        """The loss; keeps its gradients for backward."""
        needs = [wanted and need for need in ctx.needs_input_grad[:3]]
        dtypes = [None if t is None else t.dtype for t in (hidden, weight, bias)]
        rows = hidden.reshape(-1, hidden.shape[-1])  # [..., d] -> [N, d]
        teacher_rows = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
        weight = at_least_fp32(weight.to(torch.promote_types(weight.dtype, hidden.dtype)))
        teacher_weight = teacher_weight.to(weight.dtype)
        bias, teacher_bias = (None if b is None else b.to(weight.dtype) for b in (bias, teacher_bias))
        d_hidden, d_weight, d_bias = (
            torch.zeros_like(t, dtype=weight.dtype) if need and t is not None else None
            for t, need in zip((rows, weight, bias), needs, strict=True)
        )
        loss = weight.new_zeros(())
        with no_autocast(hidden):
            for index in _counted(soft, hard).split(how.chunk):
                h = rows[index].to(weight.dtype)  # [C, d]
                z = F.linear(h, weight, bias)  # [C, V]
                dz = None
                if hard is not None and labels is not None:
                    value, dz = _hard(z, labels[index], hard[index])
                    loss += how.hard * value
                    dz *= how.hard
                if soft is not None:
                    among = soft[index].nonzero()[:, 0]  # those of the chunk that count in the soft term
                    whole = len(among) == len(index)
                    t_rows = teacher_rows[index if whole else index[among]].to(weight.dtype)
                    t = F.linear(t_rows, teacher_weight, teacher_bias)
                    value, ds = _soft(z if whole else z[among], t, how.temperature, how.direction)
                    loss += how.soft * value
                    ds *= how.soft
                    dz = ds if dz is None else dz.add_(ds) if whole else dz.index_add_(0, among, ds)
                if dz is None:
                    continue
                if d_hidden is not None:
                    d_hidden[index] = dz @ weight  # [C, V] @ [V, d]
                if d_weight is not None:
                    d_weight.addmm_(dz.T, h)  # [V, C] @ [C, d]
                if d_bias is not None:
                    d_bias += dz.sum(0)
        if d_hidden is not None:
            d_hidden = d_hidden.view(hidden.shape)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtypes = dtypes
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """The kept gradients times that of the loss."""
        if torch.is_grad_enabled():  # they are constants here, so gradients of them would be silently wrong
            raise RuntimeError(
                "chunked_kd_loss: got create_graph=True; takes one backward, use kd_loss for two"
            )
        same = bool(d_loss == 1)  # then no second copy of a gradient of [V, d] is needed
        found = [
            None if g is None else (g if same else g * d_loss).to(dtype)
            for g, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*found, *[None] * 8)


def _soft(z: Tensor, t: Tensor, temperature: float, direction: str) -> tuple[Tensor, Tensor]:
    """T**2 KL of student ``z`` and teacher ``t``, summed over the rows, and its gradient by ``z``: in place."""
    log_q = F.log_softmax(z.div_(temperature), -1)
    log_p = F.log_softmax(t.div_(temperature), -1)
    if direction == "forward":  # sum p log(p/q); by z: (q - p) / T
        p = torch.exp(log_p, out=t)
        value = torch.linalg.vecdot(p, log_p.sub_(log_q)).sum()
        dz = log_q.exp_().sub_(p)
    else:  # sum q log(q/p); by z: q (log(q/p) - its mean under q) / T
        q = torch.exp(log_q, out=z)
        gap = log_q.sub_(log_p)
        per_row = torch.linalg.vecdot(q, gap)
        value = per_row.sum()
        dz = gap.sub_(per_row[:, None]).mul_(q)
    return temperature**2 * value, dz.mul_(temperature)


def _hard(z: Tensor, labels: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the counted rows, and its gradient by ``z``, which is left as it is."""
    log_q = F.log_softmax(z, -1)
    target = labels.where(counted, 0)[:, None]
    value = -(log_q.gather(1, target)[:, 0] * counted).sum()
    dz = log_q.exp_().scatter_add_(1, target, log_q.new_full(target.shape, -1.0))
    return value, dz.mul_(counted[:, None])


def _counted(soft: Tensor | None, hard: Tensor | None) -> Tensor:
    """The rows that count in some term: the others are cut out before any arithmetic."""
    one = soft if soft is not None else hard
    assert one is not None
    both = one if hard is None else one | hard
    return both.nonzero()[:, 0]


def _divisor(num_items: float | Tensor | None, counted: Tensor, name: str) -> float:
    """``num_items``, or how many positions count, checked as in the plain losses."""
    mean_over(torch.zeros(int(counted.sum()), device="cpu"), num_items, name)
    return float(counted.sum() if num_items is None else num_items)


def _check_layer(who: str, hidden: Any, weight: Any, bias: Any) -> None:
    check_tensor(f"{who}_hidden", hidden, floating=True)
    check_tensor(f"{who}_weight", weight, ndim=2, floating=True)
    if hidden.ndim == 0 or hidden.numel() == 0 or weight.numel() == 0:
        raise ValueError(
            f"{who}_hidden, {who}_weight: got shapes {tuple(hidden.shape)}, {tuple(weight.shape)}; takes [..., d] and [V, d], not empty"
        )
    check_tensor(f"{who}_weight", weight, shape=(None, hidden.shape[-1]))
    if bias is not None:
        check_tensor(f"{who}_bias", bias, shape=weight.shape[:1], floating=True)
