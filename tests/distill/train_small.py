"""A small distillation as a program, for the tests that need processes of their own: torchrun, SIGKILL.

``python -m tests.distill.train_small OUT [--resume] [--kill-at STEP | --kill-in-save STEP] [--batch B]
[--accumulate N] [--dropout P]`` trains to OUT/final.safetensors (the student and its projection).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors.torch
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from refimpl import models
from refimpl.distill import DistillationTrainer, Term, hard_term, soft_term

STEPS = 6


def lm(seed: int, dropout: float = 0.0, **changes: int) -> nn.Module:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 31} | changes
    drops = {"attn_pdrop": dropout, "embd_pdrop": dropout, "resid_pdrop": dropout}
    return models.build("gpt2", head="causal-lm", seed=seed, bos_token_id=0, eos_token_id=0, **sizes, **drops)


def texts(count: int = 24, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Rows of 9 tokens, of which 3 to 9 are real: batches differ in what they count."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        ids = torch.randint(1, 31, (9,), generator=draw)
        mask = (torch.arange(9) < torch.randint(3, 10, (1,), generator=draw)).long()
        rows.append({"input_ids": ids * mask, "attention_mask": mask, "labels": ids.where(mask == 1, -100)})
    return rows


def projected(projection: nn.Linear) -> Term:
    """Mean squared distance of the last hidden states, the student's projected: over real tokens."""

    def loss(student, teacher, inputs):
        keep = inputs["attention_mask"].bool()
        gap = projection(student.hidden_states[-1][keep]) - teacher.hidden_states[-1][keep]
        return gap.square().mean()

    return Term(loss, over="tokens", needs=("hidden_states",), modules=projection, name="hidden")


def arguments(folder: str | Path, **changes) -> TrainingArguments:
    given = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return TrainingArguments(**given | changes)


class Kill(TrainerCallback):
    """SIGKILL at the end of a step: nothing is flushed, nothing is cleaned up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledInSave(DistillationTrainer):
    """SIGKILL in the middle of a checkpoint: the weights are there, the optimizer is not."""

    step = -1

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


def train(given: argparse.Namespace) -> None:
    torch.manual_seed(0)
    projection = nn.Linear(16, 24)
    KilledInSave.step = given.kill_in_save
    trainer = KilledInSave(
        lm(1, given.dropout),
        lm(2, n_embd=24),
        arguments(
            given.out,
            per_device_train_batch_size=given.batch,
            gradient_accumulation_steps=given.accumulate,
            save_strategy="steps",
            save_steps=2,
        ),
        losses=[
            (lambda p: 1 - p / 2, hard_term()),
            (0.5, soft_term(lambda p: 4 - 2 * p, over="tokens")),
            (0.1, projected(projection)),
        ],
        train_dataset=texts(),
        eval_dataset=texts(7, seed=1),  # two processes fill their last batch up
        callbacks=[] if given.kill_at is None else [Kill(given.kill_at)],
    )
    trainer.train(resume_from_checkpoint=given.resume)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        (given.out / "metrics.json").write_text(json.dumps(metrics))
        state = trainer.model.state_dict() | {
            f"projection.{k}": v for k, v in projection.state_dict().items()
        }
        state = {k: v.clone() for k, v in state.items() if k != "lm_head.weight"}
        safetensors.torch.save_file(state, given.out / "final.safetensors")
    trainer.accelerator.wait_for_everyone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--kill-in-save", type=int, default=-1)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.1)
    torch.set_num_threads(1)
    train(parser.parse_args())
    gc.collect()  # DDP's reducer before the group: freed after it, now and then a process waits for ever
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        sys.stdout.flush()
        os._exit(0)  # all is on the disk; nothing of gloo's is left to wait for


if __name__ == "__main__":
    main()
