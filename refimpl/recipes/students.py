"""One student of the course's central table: trained, and held against its teacher on held-out texts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from refimpl.checks import check_choice, check_int, check_number
from refimpl.data import LIBRARIES, corpus
from refimpl.distill import DistillationTrainer, evaluation
from refimpl.recipes import scoring, texts
from refimpl.recipes.arms import Arm, losses_of, student_of
from refimpl.recipes.draws import Collator, Draws
from refimpl.recipes.release import KINDS, load_teacher

__all__ = ["Study", "compare_with_teacher", "distil", "teacher_of", "training_rows"]


@dataclass(frozen=True)
class Study:
    """What is equal for all students: steps of ``batch`` blocks of ``length`` tokens, and how they are judged.

    Raises:
        TypeError, ValueError: a count below 1, a learning rate of 0 or less, no learning rate.
    """

    steps: int = 150
    batch: int = 8
    length: int = 128
    peaks: tuple[float, ...] = (3e-4, 1e-3, 3e-3)  # one is chosen for each family of arms
    seeds: int = 3
    held_blocks: int = 300  # of the test texts; a third of it of the validation texts, to choose the rate
    examples: int = 100  # of each library, to fine-tune a masked LM's student on
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "seeds", "held_blocks", "examples", "threads"):
            check_int(name, getattr(self, name), 1)
        check_int("length", self.length, 3)
        if not self.peaks:
            raise ValueError("peaks: got none; takes at least one")
        for peak in self.peaks:
            check_number("peaks", peak, 0, low_open=True)


def distil(kind: str, arm: Arm, seed: int, peak: float, study: Study | None = None) -> PreTrainedModel:
    """Train one student on the default libraries' training texts; it is returned in evaluation mode.

    Batches, their order and the masks are functions of ``seed``; linear warm-up over a tenth of the steps, then
    linearly to 0. AdamW, no weight decay, fp32.

    Raises:
        ValueError: unknown kind.
        ModuleNotFoundError: accelerate is not installed.
    """
    teacher, tokenizer = teacher_of(kind)
    study = study or Study()
    torch.set_num_threads(study.threads)
    student: Any = student_of(teacher, arm, seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher if arm.family[1] else None,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=study.steps,
                per_device_train_batch_size=study.batch,
                learning_rate=peak,
                lr_scheduler_type="linear",
                warmup_steps=study.steps // 10,
                seed=seed,
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            losses=losses_of(arm, teacher.config.num_hidden_layers),
            causal=False,  # the collator has put the next token under each position already
            train_dataset=Draws(training_rows(kind, study.length), study.steps * study.batch, seed),
            data_collator=Collator(kind, tokenizer, seed),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return student.eval()


def compare_with_teacher(
    kind: str, student: PreTrainedModel, split: str = "test", blocks: int = 300, length: int = 128
) -> dict[str, float]:
    """Over the predicted tokens of ``blocks`` held-out blocks, evenly spaced.

    ``cross_entropy`` (nats), ``perplexity``, ``accuracy``, the same of the teacher (``teacher_...``),
    ``agreement`` (equal largest logit) and ``kl`` (teacher ‖ student, nats).

    Raises:
        ValueError: unknown kind or split; ``blocks`` below 1.
    """
    teacher, _ = teacher_of(kind)
    check_int("blocks", blocks, 1)
    ids, labels = _held_rows(kind, split, length)
    chosen = torch.linspace(0, len(ids) - 1, min(blocks, len(ids))).long()
    total = torch.zeros(len(evaluation.COLUMNS), dtype=torch.float64)
    mode = student.training
    student.eval()
    with torch.inference_mode():
        for part, wanted in zip(ids[chosen].split(16), labels[chosen].split(16), strict=True):
            own, given = student(input_ids=part).logits, teacher(input_ids=part).logits
            total += evaluation.sums(own, given, wanted, None).sum(0)
    student.train(mode)
    return evaluation.metrics(total, sequence=True)


def training_rows(kind: str, length: int = 128) -> Tensor:
    """The default libraries' training texts as blocks ``[B, length]`` of the teacher's tokens."""
    return _training_rows(check_choice("kind", kind, KINDS), check_int("length", length, 3))


@cache
def teacher_of(kind: str) -> tuple[Any, Any]:
    """`load_teacher`, once: the same model and tokenizer for all students. Do not train it."""
    return load_teacher(kind)


@cache
def _training_rows(kind: str, length: int) -> Tensor:
    _, tokenizer = teacher_of(kind)
    masked = kind == "masked-lm"
    separator = tokenizer.sep_token_id if masked else tokenizer.eos_token_id
    tokens = texts.chain(tokenizer, corpus("train", LIBRARIES), separator)
    if masked:
        return texts.blocks(tokens, length, tokenizer.cls_token_id, tokenizer.sep_token_id)
    return texts.blocks(tokens, length)


@cache
def _held_rows(kind: str, split: str, length: int) -> tuple[Tensor, Tensor]:
    _, tokenizer = teacher_of(kind)
    rows = scoring.masked_rows if kind == "masked-lm" else scoring.causal_rows
    return rows(tokenizer, texts.held_out(split), length)
