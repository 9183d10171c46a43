"""Adversarial distillation: a discriminator tells teacher from student, the student learns to pass for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from refimpl.checks import check_choice, check_int, check_module, check_number
from refimpl.distill.composition import Losses, weighted_terms
from refimpl.distill.positions import counted_rows
from refimpl.distill.terms import POSITIONS, Schedule, Term, mask_of
from refimpl.distill.trainer import DistillationTrainer

__all__ = ["AdversarialTrainer", "Discriminator", "adversarial_terms"]

FLOOR = -100.0  # of a log-probability: what is excluded (-inf) is a number for the discriminator


class Discriminator(nn.Sequential):
    """Two linear layers from one row of outputs to one logit: above 0 for the teacher.

    Args:
        features: entries of a row: the vocabulary (or classes), or the hidden width.
        hidden: width between the layers.

    Raises:
        TypeError, ValueError: sizes that are no integers of at least 1.
    """

    def __init__(self, features: int, hidden: int = 64) -> None:
        check_int("features", features, 1)
        check_int("hidden", hidden, 1)
        super().__init__(nn.Linear(features, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))


def adversarial_terms(
    discriminator: nn.Module, weight: Schedule = 0.1, on: str = "logits", over: str = "labels"
) -> list[tuple[Schedule, Term]]:
    """Two terms for the ``losses`` of a `DistillationTrainer`, one for each player.

    With the discriminator ``D`` a logit for each position, and ``s = log sigmoid``:

    - ``discriminator``, weight 1: ``mean_i [-s(D(teacher_i)) - s(-D(student_i))]``; its gradient reaches the
      discriminator only. It is ``2 log 2`` where nothing can be told apart.
    - ``fool``, weight ``weight``: ``mean_i -s(D(student_i))``, the non-saturating loss of the student, through
      the discriminator as it stands; its gradient reaches the student only.

    Both players step at once, each along its own loss. The discriminator is a training-only module: in the
    Trainer's checkpoints, not part of the student. Here it has the student's learning rate and shares its
    gradient clipping; `AdversarialTrainer` gives it its own.

    The two clouds of outputs are compared, not the pairs: a student that gives the right outputs to the wrong
    inputs is not found out. So keep a `soft_term` beside it. The Trainer's ``eval_loss`` has both players'
    losses in it and is no measure of the student; take ``eval_kl`` or ``eval_accuracy``.

    Args:
        discriminator: ``[N, F] -> [N, 1]``, e.g. `Discriminator`.
        weight: of the student's loss, at least 0, or a function of progress.
        on: ``"logits"`` gives it log-probabilities at temperature 1 (``F`` is the vocabulary; a constant that
            is added to all logits, which no probability sees, then gives nobody away); ``"hidden"`` the last
            hidden states (``F`` is the width, equal in both models).
        over: the positions, as in `Term`.

    Returns:
        ``[(weight, fool), (1.0, discriminator)]``.

    Raises:
        TypeError, ValueError: no module, an unknown ``on`` or ``over``, a negative weight.

    Source: Goodfellow et al. 2014 (arXiv 1406.2661), section 3; between student and teacher: Xu, Hsu, Huang
    2018 (arXiv 1709.00513), section 3.
    """
    check_module("discriminator", discriminator)
    check_choice("on", on, ("logits", "hidden"))
    check_choice("over", over, POSITIONS)
    if not callable(weight):
        check_number("weight", weight, 0)

    def rows(outputs: Any, inputs: dict[str, Any]) -> Tensor:
        mask = mask_of(over, inputs, outputs.logits)
        mask = None if mask is None else mask.bool()
        if on == "hidden":
            return counted_rows(outputs.hidden_states[-1], mask)  # [..., F] -> [N, F]
        return torch.log_softmax(counted_rows(outputs.logits, mask), -1).clamp_min(FLOOR)

    def told(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        real = discriminator(rows(teacher, inputs))
        fake = discriminator(rows(student, inputs).detach())
        return F.softplus(-real).sum() + F.softplus(fake).sum()  # softplus(-x) = -log sigmoid(x)

    def fool(student: Any, _: Any, inputs: dict[str, Any]) -> Tensor:
        frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
        return F.softplus(-functional_call(discriminator, frozen, rows(student, inputs))).sum()

    needs = ("hidden_states",) if on == "hidden" else ()
    return [
        (weight, Term(fool, over, "sum", needs, name="fool")),
        (1.0, Term(told, over, "sum", needs, discriminator, name="discriminator")),
    ]


class AdversarialTrainer(DistillationTrainer):
    """A `DistillationTrainer` with `adversarial_terms` and an optimizer's step of the discriminator's own.

    The discriminator's parameters are a group of their own in the optimizer: own learning rate (which follows
    the same schedule), no weight decay, and their gradient is clipped apart from the student's. So what the
    student learns depends on the discriminator through the term ``fool`` only: with weight 0 it learns bit
    for bit what it learns without. A checkpoint has both, and resumed = uninterrupted holds for both.

    Args:
        model, teacher, args: as in `DistillationTrainer`.
        discriminator: ``[N, F] -> [N, 1]``; trained in place.
        weight, on, over: as in `adversarial_terms`.
        discriminator_learning_rate: of its own group, above 0.
        losses, alpha, temperature: the other terms, as in `DistillationTrainer`.

    Raises:
        TypeError, ValueError: as `adversarial_terms` and `DistillationTrainer`.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        teacher: nn.Module | None = None,
        args: Any = None,
        *,
        discriminator: nn.Module,
        weight: Schedule = 0.1,
        on: str = "logits",
        over: str = "labels",
        discriminator_learning_rate: float = 1e-3,
        losses: Losses | None = None,
        alpha: Schedule | None = None,
        temperature: Schedule | None = None,
        **kwargs: Any,
    ) -> None:
        terms = adversarial_terms(discriminator, weight, on, over)
        self.discriminator = discriminator
        self.discriminator_learning_rate = check_number(
            "discriminator_learning_rate", discriminator_learning_rate, 0, low_open=True
        )
        other = weighted_terms(losses, alpha, temperature)
        super().__init__(model, teacher, args, losses=[*other, *terms], **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with the discriminator in a group of its own."""
        new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if new:
            own = list(self.discriminator.parameters())
            for group in optimizer.param_groups:
                group["params"] = _without(group["params"], own)
            rate = self.discriminator_learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        own = list(self.discriminator.parameters())
        norm = self.accelerator.clip_grad_norm_(_without(model.parameters(), own), self.args.max_grad_norm)
        torch.nn.utils.clip_grad_norm_(own, self.args.max_grad_norm)
        return norm


def _without(parameters: Any, own: list[nn.Parameter]) -> list[nn.Parameter]:
    excluded = {id(p) for p in own}
    return [p for p in parameters if id(p) not in excluded]
