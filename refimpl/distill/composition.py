"""What `DistillationTrainer` is given: made into weighted terms, and refused before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from refimpl.checks import check_module, check_number
from refimpl.distill.terms import Schedule, Term, hard_term, soft_term

Losses = Sequence[tuple[Schedule, Term | Callable[..., Tensor]]]


def weighted_terms(
    losses: Losses | None, alpha: Schedule | None, temperature: Schedule | None
) -> list[tuple[Schedule, Term]]:
    """The weighted terms, checked."""
    if losses is None:
        weight: Schedule = 0.5 if alpha is None else alpha
        if not callable(weight):
            check_number("alpha", weight, 0, 1)
        rest: Schedule = _complement(weight) if callable(weight) else 1 - weight
        return [(rest, hard_term()), (weight, soft_term(2.0 if temperature is None else temperature))]
    if alpha is not None or temperature is not None:
        raise ValueError("alpha, temperature: got them together with losses; takes one or the other")
    terms = []
    for weight, loss in losses:
        if not callable(weight):
            check_number("weight", weight, 0)
        terms.append((weight, loss if isinstance(loss, Term) else Term(loss)))
    names = [term.name for _, term in terms]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"losses: got the names {names}; takes at least one term, each with a name of its own"
        )
    return terms


def check(
    model: Any,
    teacher: Any,
    terms: list[tuple[Schedule, Term]],
    modules: nn.Module,
    args: Any,
    other: dict[str, Any],
) -> None:
    """Refuse what would train something else than what was asked for."""
    if not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise ImportError(
            "transformers: got a version whose Trainer has no loss_is_scaled_for_ga; takes 5.19 or later"
        )
    if other.get("model_init") is None or model is not None:
        check_module("model", model)
    if teacher is None:
        asking = [term.name for weight, term in terms if term.teacher and weight != 0]
        if asking:
            raise ValueError(f"teacher: got None; takes a model, for the terms {asking}")
    else:
        check_module("teacher", teacher)
    if model is not None and teacher is not None:
        own = {id(p) for p in model.parameters() if p.requires_grad}
        if any(id(p) in own for p in teacher.parameters()):
            raise ValueError("teacher: got parameters that the student trains; takes a copy, or freeze them")
    if other.get("compute_loss_func") is not None:
        raise ValueError("compute_loss_func: got a function; takes None, give it as a term of losses")
    if args is None:
        return
    if args.label_smoothing_factor:
        raise ValueError("args: got label_smoothing_factor; takes 0, the hard term has none")
    if any(True for _ in modules.parameters()):
        if other.get("model_init") is not None or args.fsdp or args.deepspeed:
            raise ValueError(
                "losses: got training-only modules with model_init, FSDP or DeepSpeed; takes DDP"
            )
        if args.ddp_find_unused_parameters:
            raise ValueError("args: got ddp_find_unused_parameters with training-only modules; takes False")


def _complement(alpha: Callable[[float], float]) -> Schedule:
    return lambda progress: 1 - alpha(progress)
