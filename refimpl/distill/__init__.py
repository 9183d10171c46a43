"""Distillation: a small student learns from a larger teacher's outputs."""

from refimpl.distill.losses import distillation_loss, jsd_loss, kd_loss, soft_cross_entropy
from refimpl.distill.students import Origin, StudentRecord, choose_layers, distilbert_from, make_student

__all__ = [
    "Origin",
    "StudentRecord",
    "choose_layers",
    "distilbert_from",
    "distillation_loss",
    "jsd_loss",
    "kd_loss",
    "make_student",
    "soft_cross_entropy",
]
