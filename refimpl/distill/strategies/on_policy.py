"""On-policy distillation (GKD): the student writes, the teacher says how it would have gone on at each token."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from refimpl.checks import check_choice, check_int, check_number
from refimpl.distill.losses import jsd_loss
from refimpl.distill.positions import IGNORED
from refimpl.distill.strategies.sequence import generate_targets
from refimpl.distill.terms import POSITIONS, Schedule, Term, at, mask_of
from refimpl.distill.trainer import DistillationTrainer

__all__ = ["OnPolicyTrainer", "jsd_term"]


def jsd_term(
    beta: float = 0.5, temperature: Schedule = 1.0, over: str = "labels", *, align: str | None = None
) -> Term:
    """`jsd_loss` of the two models' logits, as a term for `DistillationTrainer`.

    Args:
        beta: weight of the teacher in the mixture, strictly between 0 and 1. For the ends, which are the
            forward and the reverse divergence, take `soft_term`.
        temperature, over, align: as in `soft_term`.

    Raises:
        TypeError, ValueError: ``beta`` outside (0, 1), and as `soft_term`.
    """
    check_number("beta", beta, 0, 1, low_open=True, high_open=True)
    if not callable(temperature):
        check_number("temperature", temperature, 0, low_open=True)
    check_choice("over", over, POSITIONS)

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        mask = mask_of(over, inputs, student.logits)
        now = at(temperature, inputs["progress"], "temperature")
        return jsd_loss(student.logits, teacher.logits, now, mask, beta, align=align, num_items=1)

    return Term(loss, over=over, reduction="sum", schedules={"temperature": temperature}, name="jsd")


class OnPolicyTrainer(DistillationTrainer):
    """A `DistillationTrainer` that replaces a batch, with probability ``fraction``, by the student's samples.

    ``L = (1 - f) * E_{(x, y) in data} D(p_T || p_S)(y | x) + f * E_x E_{y ~ p_S(. | x)} D(p_T || p_S)(y | x)``,
    with ``D`` the ``losses``, by default ``jsd_term(0.5)``, the generalised Jensen-Shannon divergence. The
    student continues the prompts of the batch at temperature 1 from its own distribution; the loss is over
    the tokens that it wrote. There is no gradient through the sampling. `generate_targets` does the writing.

    Whether a batch is replaced, and what is written, follow from ``args.seed``, the step and the batch, and
    the Trainer's own random state is not touched: with ``fraction=0`` training is bit for bit that of
    `DistillationTrainer`, and resumed = uninterrupted holds. All processes replace the same batches, each
    with samples of its own. Evaluation is on the data. FSDP and DeepSpeed, under which the student cannot
    write by itself, are refused.

    Args:
        model, teacher, args, ...: as in `DistillationTrainer`; the student is a causal model of transformers.
        fraction: probability that a batch is replaced, 0 to 1, or a function of progress.
        max_new_tokens: how much the student writes for each prompt, at most.
        prompt_tokens: the prompt of a row is its first so many real tokens. None: those before the first
            label, as in data for instructions; a row whose first token has a label has none, and is refused.
        losses: as in `DistillationTrainer`. With ``fraction`` above 0 every term has to ask the teacher: the
            student's own samples are no labels, `hard_term` would make it surer of whatever it says.

    Raises:
        TypeError, ValueError: as `DistillationTrainer`; a fraction outside [0, 1], a hard term with samples;
            in training, a row without prompt or a length beyond the model's positions.

    Source: Agarwal et al., ICLR 2024 (arXiv 2306.13649), algorithm 1.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        teacher: nn.Module | None = None,
        args: Any = None,
        *,
        fraction: Schedule = 0.5,
        max_new_tokens: int = 32,
        prompt_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not callable(fraction):
            check_number("fraction", fraction, 0, 1)
        self.fraction = fraction
        self.max_new_tokens = check_int("max_new_tokens", max_new_tokens, 1)
        self.prompt_tokens = None if prompt_tokens is None else check_int("prompt_tokens", prompt_tokens, 1)
        if all(kwargs.get(name) is None for name in ("losses", "alpha", "temperature")):
            kwargs["losses"] = [(1.0, jsd_term())]
        if args is not None and (args.fsdp or args.deepspeed):
            raise ValueError("args: got FSDP or DeepSpeed; takes one process, or DDP")
        super().__init__(model, teacher, args, **kwargs)
        alone = [term.name for weight, term in self.terms if not term.teacher and weight != 0]
        if alone and fraction != 0:
            raise ValueError(
                f"losses: got the terms {alone} without teacher; takes those with one, the student's own "
                "samples are no labels"
            )

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """The batches of one optimizer step, some of them replaced, before their positions are counted."""
        return super().get_batch_samples(self._replaced(epoch_iterator), *args, **kwargs)

    def _replaced(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        fraction = check_number("fraction", at(self.fraction, self.progress, "fraction"), 0, 1)
        for index, batch in enumerate(batches):
            draw = random.Random(f"{self.args.seed} {self.state.global_step} {index}")
            if draw.random() < fraction:
                seed = draw.getrandbits(48) + self.args.process_index
                yield self._written(batch, seed)
            else:
                yield batch

    def _written(self, batch: dict[str, Any], seed: int) -> dict[str, Any]:
        """The batch's prompts with the student's own continuations."""
        prompts = prompts_of(batch, self.prompt_tokens)
        with self.accelerator.autocast():
            return generate_targets(
                self.accelerator.unwrap_model(self.model),
                prompts["input_ids"],
                prompts["attention_mask"],
                self.max_new_tokens,
                "sample",
                seed=seed,
            )


def prompts_of(batch: Mapping[str, Any], prompt_tokens: int | None) -> dict[str, Tensor]:
    """The ids of a batch, with a mask that is 1 on the prompts only.

    Raises:
        ValueError: no prompt in a row.
    """
    ids = batch["input_ids"]
    real = batch.get("attention_mask")
    real = torch.ones_like(ids) if real is None else real.long()
    if prompt_tokens is not None:
        prompt = real * (real.cumsum(1) <= prompt_tokens)
    elif batch.get("labels") is None:
        prompt = real
    else:
        prompt = real * ((batch["labels"] != IGNORED).long().cumsum(1) == 0)
    if not bool(prompt.any(1).all()):
        raise ValueError(
            "labels: got a row that has one at its first token; takes -100 on the prompt, or prompt_tokens"
        )
    return {"input_ids": ids, "attention_mask": prompt}
