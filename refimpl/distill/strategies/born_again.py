"""Born-again networks: a model that teaches its own kind, generation after generation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from refimpl.checks import check_int, check_module
from refimpl.distill.strategies.assistants import check_distill

__all__ = ["born_again"]


def born_again(
    make_student: Callable[[int], nn.Module],
    distill: Callable[[nn.Module | None, nn.Module], object],
    generations: int,
    teacher: nn.Module | None = None,
) -> list[nn.Module]:
    """Train generation ``k`` from generation ``k - 1``, all of one architecture.

    Generation 0 is ``teacher``, or is trained without one by ``distill(None, make_student(0))``, on labels
    only. Each later one starts anew (not from its teacher's weights, which it would have no reason to leave):
    ``distill(generation k - 1, make_student(k))``. Their ensemble is ``MultiTeacher(born_again(...), 1.0)``.

    Args:
        make_student: ``k`` to a new model for generation ``k``; seed it with ``k``, or the generations differ
            in nothing but their targets.
        distill: ``(teacher or None, student)``, trains the student in place; what it returns is not used.
        generations: how many are trained from a teacher, at least 1.
        teacher: generation 0, trained already; stays as it is.

    Returns:
        ``generations + 1`` models, generation 0 first; all of them are in memory.

    Raises:
        TypeError: no functions, no modules.
        ValueError: fewer than one generation, or ``make_student`` gives a model for the second time.

    Source: Furlanello et al., ICML 2018 (arXiv 1805.04770), section 3.
    """
    if not callable(make_student):
        raise TypeError(
            f"make_student: got {type(make_student).__name__}; takes a function of the generation's number"
        )
    check_distill(distill)
    check_int("generations", generations, 1)
    models: list[nn.Module] = []
    if teacher is not None:
        models.append(check_module("teacher", teacher))
    for k in range(len(models), generations + 1):
        student = check_module("make_student", make_student(k))
        if any(student is model for model in models):
            raise ValueError(f"make_student: got an earlier model for generation {k}; takes a new one")
        distill(models[-1] if models else None, student)
        models.append(student)
    return models
