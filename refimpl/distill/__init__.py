"""Distillation: a small student learns from a larger teacher's outputs."""

from refimpl.distill.losses import distillation_loss, jsd_loss, kd_loss, soft_cross_entropy

__all__ = ["distillation_loss", "jsd_loss", "kd_loss", "soft_cross_entropy"]
