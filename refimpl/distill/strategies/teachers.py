"""Several teachers: their probabilities averaged (the ensemble), or their logits; and both as one teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from refimpl.checks import check_choice, check_module, check_number, check_tensor
from refimpl.distill.running import forward_takes

__all__ = ["MultiTeacher", "average_logits", "average_probabilities"]


def average_probabilities(
    teacher_logits: Sequence[Tensor], weights: Sequence[float] | None = None, temperature: float = 1.0
) -> Tensor:
    """The ensemble's probabilities ``p = sum_k w_k * softmax(z_k / T)``.

    Distilling ``p`` is distilling every teacher: ``sum_k w_k * CE(p_k, q) = CE(sum_k w_k p_k, q)``, exactly,
    as the cross-entropy is linear in its first argument. So is ``sum_k w_k * KL(p_k || q)`` up to a constant,
    and ``p`` is the ``q`` at which it is least. Give ``p`` to `soft_cross_entropy` as the target.

    Args:
        teacher_logits: one tensor ``[..., V]`` a teacher, all of one shape; get no gradient.
        weights: one number >= 0 a teacher, divided by their sum; None weighs all alike. A teacher of weight
            0 is not read.
        temperature: ``T > 0``.

    Returns:
        ``[..., V]``, in fp32 at least; each row sums to 1.

    Raises:
        TypeError, ValueError: no logits, shapes that differ, weights that are negative or all 0, ``T <= 0``.
    """
    return _log_average(*_checked(teacher_logits, weights, temperature)).exp()


def average_logits(teacher_logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """The mean of the teachers' log-probabilities, ``z = sum_k w_k * log_softmax(z_k)``: logits, for any ``T``.

    Up to a constant in each row, which no probability sees, ``z`` is ``sum_k w_k z_k``. So ``softmax(z / T)``
    is the *geometric* mean of the teachers, ``prod_k softmax(z_k / T) ** w_k``, normalised: the ``q`` at which
    ``sum_k w_k * KL(q || p_k)`` is least, not ``sum_k w_k * KL(p_k || q)``. What one teacher excludes this
    average excludes, and the identity of `average_probabilities` does not hold for it.

    Args:
        teacher_logits, weights: as in :func:`average_probabilities`.

    Returns:
        ``[..., V]``, in fp32 at least: logits, to be divided by any temperature.

    Raises:
        TypeError, ValueError: as in :func:`average_probabilities`.
    """
    log_p, log_w = _checked(teacher_logits, weights, 1.0)
    return (_column(log_w.exp(), log_p) * log_p).sum(0)  # [K, ..., V] -> [..., V]


@dataclass
class Ensemble:
    """What `MultiTeacher` returns: ``logits`` of the average, and the teachers' own outputs."""

    logits: Tensor
    members: list[Any]


class MultiTeacher(nn.Module):
    """Several teachers as one: give it to a `DistillationTrainer` as its teacher.

    ``average="probabilities"``: ``logits = T * log(sum_k w_k * softmax(z_k / T))``. At this ``T``, and at no
    other, ``softmax(logits / T)`` is the ensemble ``sum_k w_k p_k``; so give the loss the same temperature,
    ``DistillationTrainer(student, MultiTeacher(teachers, T), temperature=T)``, and no schedule of it. At
    another ``T'`` it is ``p ** (T / T')``, normalised. That is so for the Trainer's evaluation, which
    compares at temperature 1: its ``agreement`` and ``teacher_accuracy`` are the ensemble's all the same (the
    largest entry stays the largest), its ``kl`` and ``teacher_cross_entropy`` are those of ``p ** T``.

    ``average="logits"``: ``logits = sum_k w_k z_k``, up to a constant in each row; right for every ``T``, but
    another average, see `average_logits`.

    Args:
        teachers: two or more (or one), each with ``logits`` ``[..., V]`` of one shape. Each gets the entries
            of the batch that its ``forward`` takes.
        temperature: ``T > 0``, of the loss that will be used.
        weights: as in `average_probabilities`.
        average: ``"probabilities"`` or ``"logits"``.

    Raises:
        TypeError, ValueError: no teachers, bad weights, a temperature that is not positive, an unknown
            average; when called, as `average_probabilities`.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        temperature: float,
        weights: Sequence[float] | None = None,
        average: str = "probabilities",
    ) -> None:
        super().__init__()
        for teacher in teachers:
            check_module("teachers", teacher)
        if not len(teachers):
            raise ValueError("teachers: got none; takes at least one")
        self.temperature = check_number("temperature", temperature, 0, low_open=True)
        self.weights = _normalized(weights, len(teachers))
        self.average = check_choice("average", average, ("probabilities", "logits"))
        self.teachers = nn.ModuleList(teachers)

    @property
    def forward(self) -> Callable[..., Ensemble]:  # type: ignore[override]
        """Run the teachers on the entries of a batch, given by name.

        A property, so that its signature, by which the Trainer picks entries, is that of the teachers.
        """
        names = dict.fromkeys(name for teacher in self.teachers for name in forward_takes(teacher))
        call = partial(self._run)
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        )
        return call

    def _run(self, **batch: Any) -> Ensemble:
        members = []
        for teacher in self.teachers:
            takes = forward_takes(teacher)
            members.append(teacher(**{name: value for name, value in batch.items() if name in takes}))
        logits = [member.logits for member in members]
        if self.average == "logits":
            return Ensemble(average_logits(logits, self.weights), members)
        log_p, log_w = _checked(logits, self.weights, self.temperature)
        return Ensemble(self.temperature * _log_average(log_p, log_w), members)


def _checked(
    teacher_logits: Sequence[Tensor], weights: Sequence[float] | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [K, ..., V] and log-weights [K] of the teachers that count."""
    check_number("temperature", temperature, 0, low_open=True)
    if isinstance(teacher_logits, Tensor) or not len(teacher_logits):
        raise ValueError("teacher_logits: got no list of tensors; takes one tensor a teacher, at least one")
    for logits in teacher_logits:
        check_tensor("teacher_logits", logits, floating=True)
        check_tensor("teacher_logits", logits, shape=teacher_logits[0].shape)
    kept = [
        (w, z) for w, z in zip(_normalized(weights, len(teacher_logits)), teacher_logits, strict=True) if w
    ]
    rows = torch.stack([z.detach().to(torch.promote_types(z.dtype, torch.float32)) for _, z in kept])
    return torch.log_softmax(rows / temperature, -1), rows.new_tensor([w for w, _ in kept]).log()


def _log_average(log_p: Tensor, log_w: Tensor) -> Tensor:
    """log sum_k w_k p_k: in logarithms, so that what is tiny does not become 0; [K, ..., V] -> [..., V]."""
    return torch.logsumexp(log_p + _column(log_w, log_p), 0)


def _column(weights: Tensor, like: Tensor) -> Tensor:
    """[K] -> [K, 1, ..., 1], to be multiplied with [K, ..., V]."""
    return weights.view(-1, *[1] * (like.ndim - 1))


def _normalized(weights: Sequence[float] | None, count: int) -> list[float]:
    values = [1.0] * count if weights is None else [check_number("weights", w, 0) for w in weights]
    if len(values) != count or not sum(values):
        raise ValueError(f"weights: got {values} for {count} teachers; takes one each, not all 0")
    return [value / sum(values) for value in values]
