"""The students of the course's central table: one recipe, and what it is without each of its ingredients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BertForMaskedLM, PreTrainedModel, set_seed

from refimpl.checks import check_choice, check_number
from refimpl.distill import (
    cosine_term,
    distilbert_from,
    hard_term,
    hidden_term,
    jsd_term,
    make_student,
    soft_term,
)
from refimpl.distill.students import choose_layers
from refimpl.distill.terms import Term

__all__ = ["ARMS", "Arm", "losses_of", "student_of"]

STARTS = ("spread", "first", "last", "random")
DIVERGENCES = ("forward", "reverse", "jsd")


@dataclass(frozen=True)
class Arm:
    """One student: what it starts from and the weights of its losses.

    ``L = (soft·T²·KL + hard·CE + cosine·(1 − cos) + hidden·Σ_l MSE_l) / (soft + hard + cosine + hidden)``. The
    quotient changes nothing for AdamW but what the clipping of gradients means: so it means the same for all.

    Attributes:
        soft, hard, cosine, hidden: weights, at least 0, not all of them 0.
        temperature: T of the soft loss.
        divergence: ``"forward"``, ``"reverse"`` or ``"jsd"``: the soft loss is T²·KL(p‖q), T²·KL(q‖p), T²·JSD.
        over: ``"tokens"`` or ``"labels"``: positions of the soft loss; of a masked LM all, or the masked ones.
        start: the rule by which half of the teacher's layers are copied, or ``"random"``: no weight of it.

    Raises:
        TypeError, ValueError: another value.
    """

    soft: float = 0.0
    hard: float = 0.0
    cosine: float = 0.0
    hidden: float = 0.0
    temperature: float = 2.0
    divergence: str = "forward"
    over: str = "tokens"
    start: str = "spread"

    def __post_init__(self) -> None:
        total = sum(
            check_number(name, getattr(self, name), 0) for name in ("soft", "hard", "cosine", "hidden")
        )
        check_number("temperature", self.temperature, 0, low_open=True)
        check_choice("divergence", self.divergence, DIVERGENCES)
        check_choice("over", self.over, ("tokens", "labels"))
        check_choice("start", self.start, STARTS)
        if total == 0:
            raise ValueError("soft, hard, cosine, hidden: got 0 for all; takes one above 0")

    @property
    def family(self) -> tuple[bool, bool]:
        """Does it start at random, and does it see the teacher? Arms alike in both share a learning rate."""
        return self.start == "random", self.soft + self.cosine + self.hidden > 0


TRIPLE = Arm(soft=5.0, hard=2.0, cosine=1.0)  # DistilBERT's published coefficients, T = 2
HALVES = Arm(soft=0.5, hard=0.5)  # DistilGPT2's: the defaults of its code, T = 2

ARMS: dict[str, dict[str, Arm]] = {
    "masked-lm": {
        "full recipe": TRIPLE,
        "without the soft loss": replace(TRIPLE, soft=0.0),
        "without the hard loss": replace(TRIPLE, hard=0.0),
        "without the cosine loss": replace(TRIPLE, cosine=0.0),
        "random start": replace(TRIPLE, start="random"),
        "labels only": Arm(hard=1.0),
        "labels only, random start": Arm(hard=1.0, start="random"),
        "first six layers": replace(TRIPLE, start="first"),
        "last six layers": replace(TRIPLE, start="last"),
        "T = 1": replace(TRIPLE, temperature=1.0),
        "soft loss where masked": replace(TRIPLE, over="labels"),
        "with all hidden states": replace(TRIPLE, hidden=1.0),
    },
    "causal-lm": {
        "full recipe": HALVES,
        "without the hard loss": replace(HALVES, hard=0.0),
        "random start": replace(HALVES, start="random"),
        "labels only": Arm(hard=1.0),
        "labels only, random start": Arm(hard=1.0, start="random"),
        "first six layers": replace(HALVES, start="first"),
        "last six layers": replace(HALVES, start="last"),
        "T = 1": replace(HALVES, temperature=1.0),
        "with the cosine loss": replace(HALVES, cosine=0.5),
        "with all hidden states": replace(HALVES, hidden=0.5),
        "reverse divergence": replace(HALVES, divergence="reverse"),
        # near p = q it is a quarter of the forward divergence: four times the weight is the same pull
        "Jensen-Shannon divergence": replace(HALVES, soft=2.0, divergence="jsd"),
    },
}


def student_of(teacher: PreTrainedModel, arm: Arm, seed: int = 0) -> PreTrainedModel:
    """A student of half the depth: of a BERT a DistilBERT, of others one of the teacher's class.

    DistilBERT has no token types; the row that BERT adds to every token of a single text is folded into the
    positions. With ``start="random"`` the weights are drawn as the class draws them, by ``seed``.
    """
    rule = "spread" if arm.start == "random" else arm.start
    if isinstance(teacher, BertForMaskedLM):
        student, _ = distilbert_from(teacher, rule, token_types="fold")
    else:
        student, _ = make_student(teacher, rule)
    if arm.start == "random":
        with torch.random.fork_rng(devices=[]):
            set_seed(seed)
            student = type(student)(student.config)
    return student.train()


def losses_of(arm: Arm, layers: int) -> list[tuple[float, Term]]:
    """Weights and terms for `refimpl.distill.DistillationTrainer`; ``layers`` is the teacher's depth."""
    total = arm.soft + arm.hard + arm.cosine + arm.hidden
    if arm.divergence == "jsd":
        soft = jsd_term(0.5, arm.temperature, over=arm.over)
    else:
        soft = soft_term(arm.temperature, arm.divergence, over=arm.over)
    kept = choose_layers(layers, "spread" if arm.start == "random" else arm.start)
    depths = {0: 0, **{j + 1: k + 1 for j, k in enumerate(kept)}}  # 0 is the embeddings
    weighted: list[tuple[float, Any]] = [
        (arm.soft, soft),
        (arm.hard, hard_term()),
        (arm.cosine, cosine_term()),
        (arm.hidden, hidden_term(depths)),
    ]
    return [(weight / total, term) for weight, term in weighted if weight > 0]
