"""Deep mutual learning: students without a teacher, each taught by the others while all of them train."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from refimpl.checks import check_module, check_number
from refimpl.distill.losses import distillation_loss
from refimpl.distill.running import forward_takes
from refimpl.distill.terms import Schedule, Term, at
from refimpl.measure.sample import at_rest

__all__ = ["mutual_losses", "mutual_term"]


def mutual_losses(
    logits: Sequence[Tensor],
    labels: Tensor,
    alpha: float = 0.5,
    temperature: float = 1.0,
    ignore_index: int = -100,
    *,
    num_items: float | Tensor | None = None,
) -> list[Tensor]:
    """Each student's loss: ``L_k = (1 - alpha) * CE(labels, q_k) + alpha * mean_{j != k} T**2 * KL(p_j || q_k)``.

    ``p_j`` is student ``j`` as a teacher, without gradient: the gradient of ``sum_k L_k`` with respect to
    student ``k`` is that of ``L_k`` alone, so that one backward pass of the sum trains them all. The published
    loss, ``CE + mean KL`` at ``T = 1``, is twice this with ``alpha = 0.5``. The mean over peers has the
    gradient of one KL to the peers' averaged probabilities (see `average_probabilities`).

    The published algorithm computes a student's outputs anew after the one before it was updated; here all
    are compared as they stand, which is the same up to one step of the peers.

    Args:
        logits: two or more tensors ``[..., V]`` of one shape.
        labels: ``[...]``, integers in ``[0, V)`` or ``ignore_index``.
        alpha, temperature, ignore_index, num_items: as in `distillation_loss`.

    Returns:
        One scalar a student, each a mean over the positions with a label.

    Raises:
        TypeError, ValueError: fewer than two students, and as in `distillation_loss`.

    Source: Zhang et al., CVPR 2018 (arXiv 1706.00384), equations 4, 5 and 7.
    """
    if isinstance(logits, Tensor) or len(logits) < 2:
        raise ValueError("logits: got fewer than two students; takes a list of two tensors or more")
    losses = []
    for k, student in enumerate(logits):
        peers = [peer for j, peer in enumerate(logits) if j != k]
        each = [
            distillation_loss(student, p, labels, alpha, temperature, ignore_index, num_items=num_items)
            for p in peers
        ]
        losses.append(torch.stack(each).mean())
    return losses


def mutual_term(peers: Sequence[nn.Module], alpha: Schedule = 0.5, temperature: Schedule = 1.0) -> Term:
    """`mutual_losses`, summed over the student and its peers: all learn together, none is a teacher.

    ``DistillationTrainer(student, None, args, losses=[(1.0, mutual_term([peer]))])``. The peers are
    training-only modules: trained by the same optimizer, in the Trainer's checkpoints, not part of the
    student. They are trained in place, too: keep them, or average them all in a `MultiTeacher`. The mean
    runs over the positions that have a label; the Trainer's loss is the sum over the students.

    Args:
        peers: one or more other models of the same task and vocabulary; each gets the entries of the batch
            that its ``forward`` takes, out of those that the student takes.
        alpha: weight of the peers, 0 to 1, or a function of progress.
        temperature: ``T > 0``, or a function of progress.

    Raises:
        TypeError, ValueError: no modules, none at all, alpha outside [0, 1], a temperature that is not
            positive.
    """
    for peer in peers:
        check_module("peers", peer)
    if not len(peers):
        raise ValueError("peers: got none; takes at least one model besides the student")
    if not callable(alpha):
        check_number("alpha", alpha, 0, 1)
    if not callable(temperature):
        check_number("temperature", temperature, 0, low_open=True)
    takes = [set(forward_takes(peer)) - {"labels"} for peer in peers]

    def loss(student: Any, _: Any, inputs: dict[str, Any]) -> Tensor:
        logits = [student.logits]
        # the student's mode is the Trainer's affair; outside of train() the peers are not part of it
        with nullcontext() if torch.is_grad_enabled() else at_rest(*peers):
            for peer, names in zip(peers, takes, strict=True):
                given = {name: value for name, value in inputs.items() if name in names}
                logits.append(peer(**given, **({"use_cache": False} if "use_cache" in names else {})).logits)
        values = mutual_losses(
            logits,
            inputs.get("labels"),  # type: ignore[arg-type]
            at(alpha, inputs["progress"], "alpha"),
            at(temperature, inputs["progress"], "temperature"),
            num_items=1,  # the sum
        )
        return torch.stack(values).sum()

    return Term(
        loss,
        over="labels",
        reduction="sum",
        modules=nn.ModuleList(peers),
        teacher=False,
        schedules={"alpha": alpha, "temperature": temperature},
        name="mutual",
    )
