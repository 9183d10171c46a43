"""The one place where a method joins the contracts of the package.

Append an entry to the list that fits; tests/contracts/test_contracts.py runs every contract over every
entry. Everything is small, seeded and on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refimpl import calibration, distill
from tests.contracts import models


@dataclass(frozen=True)
class Loss:
    """A loss between student and teacher: contracts 1 (padding), 2 (teacher), 3 (batches), 8, 9 (half).

    ``call(student, teacher, mask) -> scalar`` for logits ``[B, L, V]`` and a bool mask ``[B, L]``; the
    scalar is documented as the mean over unmasked positions.
    """

    name: str
    call: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pooler:
    """Hidden states to one vector a text, ``call(hidden [B, L, D], mask [B, L]) -> [B, D]``: 1, 3, 8, 9."""

    name: str
    call: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Runner:
    """A function that runs a model and returns something: contracts 2 and 8 (mode, gradients, weights).

    ``call(model, batch) -> Any``; ``batch`` has ``input_ids`` and ``attention_mask``.
    """

    name: str
    call: Callable[[nn.Module, dict[str, Tensor]], Any]


@dataclass(frozen=True)
class Sparsifier:
    """``call(scores, sparsity) -> mask`` (True = kept): contract 4, exact counts."""

    name: str
    call: Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Pure:
    """A function of tensors: contract 8 (arguments unchanged) and, with ``half``, contract 9.

    ``make()`` gives the positional arguments. ``half=True``: called with its floating-point arguments in
    fp16 and in bf16 it gives what it gives for the same numbers in fp32.
    """

    name: str
    call: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    half: bool = True


@dataclass(frozen=True)
class Verb:
    """A method that changes a model in place: contracts 5 (Conv1D), 6 (ties), 7 (round trip), 10.

    ``apply(model) -> model``; ``on`` names the makers in tests/contracts/models.py that it takes. ``model``
    is already one of those; a data-driven verb may run it. ``tolerance`` is for contract 5 only.
    """

    name: str
    apply: Callable[[nn.Module], nn.Module]
    on: tuple[str, ...] = ("mlp", "bert", "gpt2")
    tolerance: float = 1e-5


LOSSES: list[Loss] = []
POOLERS: list[Pooler] = []
RUNNERS: list[Runner] = []
SPARSIFIERS: list[Sparsifier] = []
PURE: list[Pure] = []
VERBS: list[Verb] = []


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Seeded normal numbers that fp16 and bf16 hold exactly, so that contract 9 compares like with like."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.bfloat16().half().float()


# -- ground floor ----------------------------------------------------------------------------------------

RUNNERS.append(
    Runner(
        "calibration.calibrate",
        lambda model, batch: calibration.calibrate(model, [batch], collect=("gram", "norm", "range")),
    )
)
RUNNERS.append(
    Runner(
        "calibration.calibrate grad_sq",
        lambda model, batch: calibration.calibrate(
            model, [batch], collect=("grad_sq",), loss=lambda out, _: models.output(out).square().mean()
        ),
    )
)

# -- distill ---------------------------------------------------------------------------------------------


def _labels(mask: Tensor, vocabulary: int) -> Tensor:
    return torch.where(mask, torch.arange(mask.shape[-1]) % vocabulary, -100)


LOSSES += [
    Loss("distill.kd_loss", lambda s, t, m: distill.kd_loss(s, t, 2.0, m)),
    Loss("distill.kd_loss reverse", lambda s, t, m: distill.kd_loss(s, t, 2.0, m, "reverse")),
    Loss("distill.jsd_loss", lambda s, t, m: distill.jsd_loss(s, t, 2.0, m, beta=0.3)),
    Loss(
        "distill.soft_cross_entropy",
        lambda s, t, m: distill.soft_cross_entropy(s, torch.softmax(t.float(), -1), 2.0, m),
    ),
    Loss(
        "distill.distillation_loss",
        lambda s, t, m: distill.distillation_loss(s, t, _labels(m, s.shape[-1]), 0.5, 2.0),
    ),
    Loss(
        "distill.distillation_loss with a mask",
        lambda s, t, m: distill.distillation_loss(s, t, _labels(m, s.shape[-1]), 0.5, 2.0, mask=m),
    ),
]

# -- prune -----------------------------------------------------------------------------------------------

# -- quantize --------------------------------------------------------------------------------------------

# -- lowrank ---------------------------------------------------------------------------------------------

# -- retrieve --------------------------------------------------------------------------------------------
