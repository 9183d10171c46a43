"""Distillation: a small student learns from a larger teacher's outputs."""

from refimpl.distill.feature_terms import attention_term, cosine_term, hidden_term
from refimpl.distill.features import (
    Captured,
    Projections,
    attention_loss,
    capture,
    cosine_loss,
    hidden_loss,
    relation_loss,
)
from refimpl.distill.losses import distillation_loss, jsd_loss, kd_loss, soft_cross_entropy
from refimpl.distill.schedules import Constant, Cosine, Feedback, LinearDown, LinearUp
from refimpl.distill.students import Origin, StudentRecord, choose_layers, distilbert_from, make_student
from refimpl.distill.terms import Term, hard_term, soft_term
from refimpl.distill.trainer import DistillationTrainer

__all__ = [
    "Captured",
    "Constant",
    "Cosine",
    "DistillationTrainer",
    "Feedback",
    "LinearDown",
    "LinearUp",
    "Origin",
    "Projections",
    "StudentRecord",
    "Term",
    "attention_loss",
    "attention_term",
    "capture",
    "choose_layers",
    "cosine_loss",
    "cosine_term",
    "distilbert_from",
    "distillation_loss",
    "hard_term",
    "hidden_loss",
    "hidden_term",
    "jsd_loss",
    "kd_loss",
    "make_student",
    "relation_loss",
    "soft_cross_entropy",
    "soft_term",
]
