"""Distillation: a small student learns from a larger teacher's outputs."""

from refimpl.distill.feature_terms import attention_term, cosine_term, hidden_term, relation_term
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
from refimpl.distill.search import ReportToPruner, SearchSpace, run_search
from refimpl.distill.strategies import (
    AdversarialTrainer,
    Discriminator,
    MultiTeacher,
    OnPolicyTrainer,
    adversarial_terms,
    average_logits,
    average_probabilities,
    born_again,
    distill_chain,
    generate_targets,
    jsd_term,
    mutual_losses,
    mutual_term,
)
from refimpl.distill.students import Origin, StudentRecord, choose_layers, distilbert_from, make_student
from refimpl.distill.targets import Targets, open_targets, write_targets
from refimpl.distill.terms import Term, hard_term, soft_term
from refimpl.distill.topk import stored_term, topk_kd_loss, topk_targets
from refimpl.distill.trainer import DistillationTrainer
from refimpl.distill.vocabulary import chunked_kd_loss

__all__ = [
    "AdversarialTrainer",
    "Captured",
    "Constant",
    "Cosine",
    "Discriminator",
    "DistillationTrainer",
    "Feedback",
    "LinearDown",
    "LinearUp",
    "MultiTeacher",
    "OnPolicyTrainer",
    "Origin",
    "Projections",
    "ReportToPruner",
    "SearchSpace",
    "StudentRecord",
    "Targets",
    "Term",
    "adversarial_terms",
    "attention_loss",
    "attention_term",
    "average_logits",
    "average_probabilities",
    "born_again",
    "capture",
    "choose_layers",
    "chunked_kd_loss",
    "cosine_loss",
    "cosine_term",
    "distilbert_from",
    "distill_chain",
    "distillation_loss",
    "generate_targets",
    "hard_term",
    "hidden_loss",
    "hidden_term",
    "jsd_loss",
    "jsd_term",
    "kd_loss",
    "make_student",
    "mutual_losses",
    "mutual_term",
    "open_targets",
    "relation_loss",
    "relation_term",
    "run_search",
    "soft_cross_entropy",
    "soft_term",
    "stored_term",
    "topk_kd_loss",
    "topk_targets",
    "write_targets",
]
