"""What all losses between two tensors of rows share: which positions count, in which precision, and the mean.

A *position* is one row: all dimensions but the last are positions, the last is the vocabulary (or classes).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from refimpl.checks import check_choice, check_number, check_tensor

__all__ = [
    "IGNORED",
    "check_labels",
    "check_mask",
    "check_pair",
    "check_result",
    "counted_rows",
    "kl_rows",
    "mean_over",
]

IGNORED = -100  # the label of a position that does not count, in all of transformers


def check_pair(
    student: Tensor, teacher: Tensor, mask: Tensor | None, align: str | None, name: str = "teacher_logits"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check the shapes, detach the teacher, align the vocabularies, make the mask boolean."""
    check_tensor("student_logits", student, floating=True)
    check_tensor(name, teacher, floating=True)
    check_choice("align", align, (None, "truncate"))
    if student.ndim == 0 or student.numel() == 0:
        raise ValueError(f"student_logits: got shape {tuple(student.shape)}; takes [..., V], not empty")
    check_tensor(name, teacher, shape=(*student.shape[:-1], None))
    sizes = student.shape[-1], teacher.shape[-1]
    if sizes[0] != sizes[1] and align is None:
        hint = ', or align="truncate"' if name == "teacher_logits" else ""
        raise ValueError(f"{name}: got a vocabulary of {sizes[1]}; takes the student's {sizes[0]}{hint}")
    if min(sizes) == 0:
        raise ValueError(f"{name}: got an empty vocabulary; takes at least one entry")
    mask = check_mask(mask, student.shape[:-1])
    return student[..., : min(sizes)], teacher.detach()[..., : min(sizes)], mask


def check_mask(mask: Tensor | None, positions: torch.Size) -> Tensor | None:
    """The mask as booleans, if it has the shape of the positions."""
    if mask is None:
        return None
    check_tensor("mask", mask, shape=positions)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask: got entries other than 0 and 1; takes 1 where a position counts")
    return mask.bool()


def check_labels(labels: Tensor, logits: Tensor, ignore_index: int) -> Tensor:
    """Check the labels and return where they count."""
    check_tensor("labels", labels, shape=logits.shape[:-1])
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: got dtype {labels.dtype}; takes integers")
    keep = labels != ignore_index
    size = logits.shape[-1]
    if bool(((labels < 0) | (labels >= size))[keep].any()):
        raise ValueError(f"labels: got a label outside 0 to {size - 1}; takes those or {ignore_index}")
    return keep


def counted_rows(t: Tensor, mask: Tensor | None) -> Tensor:
    """The rows that count, [..., V] -> [N, V], in fp32 at least.

    Rows are cut out, not multiplied by 0: NaN * 0 is NaN, and so is its gradient.
    """
    rows = t.reshape(-1, t.shape[-1]) if mask is None else t[mask]
    return rows.to(torch.promote_types(t.dtype, torch.float32))


def mean_over(per_position: Tensor, num_items: float | Tensor | None, name: str = "mask") -> Tensor:
    """The mean over positions, or their sum divided by ``num_items``."""
    if num_items is None:
        if per_position.numel() == 0:
            raise ValueError(f"{name}: got no position that counts; takes at least one (or give num_items)")
        return per_position.mean()
    if isinstance(num_items, Tensor):
        num_items = check_tensor("num_items", num_items, shape=()).item()
    return per_position.sum() / check_number("num_items", num_items, 0, low_open=True)


def check_result(loss: Tensor, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """Return a finite loss; raise for NaN or infinity, reading the logits only then, to see whose it is."""
    if bool(torch.isfinite(loss)):
        return loss
    for name, t in (("student_logits", student), ("teacher_logits", teacher)):
        rows = counted_rows(t, mask)
        bad = rows.isnan().any(-1) | (rows.amax(-1).abs() == math.inf)  # NaN, +inf, or -inf throughout
        if bool(bad.any()):
            raise ValueError(
                f"{name}: got NaN, +inf or nothing but -inf at {int(bad.sum())} counted positions; "
                "takes finite logits, or -inf for what is excluded"
            )
    raise ValueError(
        "student_logits, teacher_logits: got an infinite divergence, one excludes (-inf) what the other "
        "gives weight to; takes pairs for which it is finite"
    )


def kl_rows(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row of log-probabilities, ``[N, V] -> [N]``. An entry with p = 0 adds nothing, whatever q is, also where q = 0 too."""
    gap = (log_p - log_q).masked_fill(log_p == -math.inf, 0)  # the fill sends back a gradient of 0 as well
    return (log_p.exp() * gap).sum(-1)  # [N, V] -> [N]
