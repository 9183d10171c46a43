"""The terms of a training loss: what `DistillationTrainer` adds up, each with the positions it sums over.

A term looks at the student's outputs, the teacher's outputs and the batch, and says over which positions it
is a sum or a mean. That is all the Trainer needs to give a step of several batches, on several processes,
the gradient of one large batch: it counts these positions over the whole step and divides once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from refimpl.checks import check_choice, check_module, check_number, check_tensor
from refimpl.distill.losses import kd_loss
from refimpl.distill.positions import IGNORED

__all__ = ["Schedule", "Term", "hard_term", "soft_term"]

Schedule = float | Callable[[float], float]  # a constant, or a function of progress in [0, 1]
POSITIONS = ("labels", "tokens", "examples")
NEEDS = ("hidden_states", "attention_scores", "queries_keys_values")


@dataclass(frozen=True)
class Term:
    """One term of the loss: ``loss(student_outputs, teacher_outputs, inputs) -> scalar``.

    Args:
        loss: gets the two models' outputs (objects of transformers with ``logits``, ...; the teacher's are
            detached, or None where no teacher is needed) and the batch as a dictionary. In it,
            ``inputs["labels"]`` are aligned with the logits, shifted by one for a causal model (the last
            position then has -100), ``inputs["causal"]`` says whether they were, and ``inputs["progress"]`` is
            the progress of training in [0, 1].
        over: the positions that it reduces over: ``"labels"`` (where the label is not -100), ``"tokens"``
            (where ``attention_mask`` is 1; every position without one) or ``"examples"``.
        reduction: ``"mean"`` or ``"sum"`` over those positions. A mean is not asked for a batch without any.
        needs: what both models are asked for: ``"hidden_states"`` come with the outputs;
            ``"attention_scores"`` and ``"queries_keys_values"`` as ``outputs.captured``, see `capture`.
        modules: training-only modules that ``loss`` uses, e.g. projections: trained with the student, kept
            in the Trainer's checkpoints, never part of the student.
        teacher: False if ``loss`` makes no use of the teacher.
        columns: entries of the data that ``loss`` reads and no model takes; the Trainer keeps them.
        schedules: quantities that ``loss`` lets follow the progress, by the name under which they are logged.
        name: the name in the log; the function's by default.

    Raises:
        TypeError, ValueError: wrong kind; unknown ``over``, ``reduction`` or ``needs``.
    """

    loss: Callable[[Any, Any, dict[str, Any]], Tensor]
    over: str = "tokens"
    reduction: str = "mean"
    needs: tuple[str, ...] = ()
    modules: nn.Module | None = None
    teacher: bool = True
    columns: tuple[str, ...] = ()
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise TypeError(
                f"loss: got {type(self.loss).__name__}; takes a function of (student, teacher, inputs)"
            )
        check_choice("over", self.over, POSITIONS)
        check_choice("reduction", self.reduction, ("mean", "sum"))
        for need in self.needs:
            check_choice("needs", need, NEEDS)
        modules = self.modules
        if modules is None and isinstance(self.loss, nn.Module):
            modules = self.loss
        if modules is not None:
            check_module("modules", modules)
        object.__setattr__(self, "modules", modules)
        object.__setattr__(
            self, "name", self.name or getattr(self.loss, "__name__", type(self.loss).__name__)
        )


def hard_term() -> Term:
    """Cross-entropy of the student to the labels, at temperature 1, over the positions that have one.

    ``-sum_i log q_i[label_i]``, in nats, in fp32 at least. It is what the model itself computes from
    ``labels``, up to the divisor: several models of transformers (BERT's masked LM and its classifier among
    them) take the mean of each batch, so that accumulated batches of different length weigh too much or too
    little; here the divisor is that of the whole step.
    """

    def loss(student: Any, _: Any, inputs: dict[str, Any]) -> Tensor:
        labels = _labels(inputs, student.logits)
        logits = student.logits
        rows = logits.float() if logits.dtype.itemsize < 4 else logits
        return F.cross_entropy(
            rows.reshape(-1, rows.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
        )

    return Term(loss, over="labels", reduction="sum", teacher=False, name="hard")


def soft_term(
    temperature: Schedule = 2.0,
    direction: str = "forward",
    over: str = "labels",
    *,
    align: str | None = None,
) -> Term:
    """`kd_loss` of the two models' logits: ``T**2 * KL`` summed over the vocabulary.

    Args:
        temperature: ``T > 0``, or a function of progress.
        direction: as in `kd_loss`.
        over: ``"labels"`` takes the positions of the hard loss; ``"tokens"`` all real tokens, as DistilBERT
            does; ``"examples"`` is for data without labels and one row of logits an example.
        align: as in `kd_loss`, for vocabularies of different size.

    Raises:
        TypeError, ValueError: a temperature that is not positive, an unknown direction or ``over``.
    """
    if not callable(temperature):
        check_number("temperature", temperature, 0, low_open=True)
    check_choice("direction", direction, ("forward", "reverse"))
    check_choice("over", over, POSITIONS)

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        mask = mask_of(over, inputs, student.logits)
        return kd_loss(
            student.logits,
            teacher.logits,
            at(temperature, inputs["progress"], "temperature"),
            mask,
            direction,
            align=align,
            num_items=1,  # the sum
        )

    return Term(loss, over=over, reduction="sum", schedules={"temperature": temperature}, name="soft")


def at(schedule: Schedule, progress: float, name: str) -> float:
    """The value of a schedule at ``progress``."""
    return check_number(name, schedule(progress) if callable(schedule) else schedule)


def mask_of(over: str, inputs: Mapping[str, Any], logits: Tensor) -> Tensor | None:
    """Which positions of ``logits`` count, ``[...]`` for ``[..., V]``; None for all."""
    if over == "labels":
        return _labels(inputs, logits) != IGNORED
    if over == "tokens" and inputs.get("attention_mask") is not None:
        return inputs["attention_mask"]
    return None


def counts(inputs: Mapping[str, Any]) -> dict[str, int | Tensor]:
    """How many positions of each kind a batch has; ``inputs["labels"]`` are aligned already."""
    first = next(t for t in inputs.values() if isinstance(t, Tensor) and t.ndim)
    found: dict[str, int | Tensor] = {"labels": 0, "examples": first.shape[0], "tokens": first.shape[0]}
    if inputs.get("labels") is not None:
        found["labels"] = (inputs["labels"] != IGNORED).sum()
    if inputs.get("attention_mask") is not None:
        found["tokens"] = inputs["attention_mask"].sum()
    elif inputs.get("input_ids") is not None:
        found["tokens"] = inputs["input_ids"].numel()
    return found


def align_labels(inputs: Mapping[str, Any], causal: bool) -> dict[str, Any]:
    """The batch with labels under the logits that predict them: ``labels[i+1]`` belongs to position ``i``."""
    aligned = dict(inputs)
    if causal and aligned.get("labels") is not None:
        aligned["labels"] = F.pad(aligned["labels"], (0, 1), value=IGNORED)[..., 1:].contiguous()
    return aligned


def _labels(inputs: Mapping[str, Any], logits: Tensor) -> Tensor:
    if inputs.get("labels") is None:
        raise ValueError('labels: got none in the batch; takes them, or terms over "tokens" or "examples"')
    return check_tensor("labels", inputs["labels"], shape=logits.shape[:-1])
