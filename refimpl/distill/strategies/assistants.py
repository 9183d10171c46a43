"""Teacher assistants: a chain of models between a large teacher and a small student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from refimpl.checks import check_module

__all__ = ["distill_chain"]

Distill = Callable[[nn.Module, nn.Module], object]  # (teacher, student): trains the student in place


def distill_chain(models: Sequence[nn.Module], distill: Distill) -> list[nn.Module]:
    """Distil each model from the one before it: teacher, assistants, student.

    ``distill(models[0], models[1])``, then ``distill(models[1], models[2])``, ... With two models this is
    direct distillation, and nothing else: the same call on the same models.

    A chain of ``k`` links trains ``k`` models. Compare it with a direct distillation that is given all the
    chain's steps, not the last link's only.

    Args:
        models: from the teacher, which is trained already and stays as it is, to the student; each another
            object. All but the first are trained, in place, by ``distill``.
        distill: ``(teacher, student)``, trains the student in place, e.g. with a `DistillationTrainer`
            (whose ``args.seed`` fixes batches and dropout of each link); what it returns is not used.

    Returns:
        The models, a new list; the last one is the student.

    Raises:
        TypeError: ``models`` that are no modules, ``distill`` that is no function.
        ValueError: fewer than two models, or one of them twice; before any training.

    Source: Mirzadeh et al., AAAI 2020 (arXiv 1902.03393), section 4.
    """
    chain = list(models)
    for model in chain:
        check_module("models", model)
    if len(chain) < 2 or len({id(model) for model in chain}) < len(chain):
        raise ValueError(
            f"models: got {len({id(model) for model in chain})} different models in {len(chain)} places; "
            "takes a teacher and at least one student, each once"
        )
    check_distill(distill)
    for teacher, student in pairwise(chain):
        distill(teacher, student)
    return chain


def check_distill(distill: Distill) -> None:
    """Raise unless ``distill`` can be called."""
    if not callable(distill):
        raise TypeError(f"distill: got {type(distill).__name__}; takes a function of (teacher, student)")
