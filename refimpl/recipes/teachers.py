"""Train the course's two teachers: ``python -m refimpl.recipes.teachers masked-lm`` (or ``causal-lm``).

BERT-shaped and GPT-2-shaped, 12 layers, 128 wide, on the docstrings of the book's environment. One thread
of a CPU takes about an hour for each. ``--resume`` continues after a kill and ends with the same weights. Needs
accelerate, and for the masked LM's optimizer torch 2.9.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from refimpl.checks import check_choice
from refimpl.recipes import scoring, texts
from refimpl.recipes.draws import Collator, Draws
from refimpl.recipes.optimizer import MuonAndAdamW
from refimpl.recipes.release import KINDS, release
from refimpl.recipes.shapes import DEFAULTS, Settings, make_model, make_tokenizer

__all__ = ["CoreSeconds", "TeacherTrainer", "main", "train"]


class TeacherTrainer(Trainer):
    """`transformers.Trainer` with the order of `Draws`, the loss in bf16 autocast, and held-out scores."""

    def __init__(self, held: list[str], settings: Settings, **arguments: Any) -> None:
        self.held, self.settings = held, settings
        # Trainer wants an eval_dataset before it calls `evaluate`, which here reads `held` instead
        super().__init__(eval_dataset=arguments["train_dataset"], **arguments)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Trainer's own AdamW, or with ``optimizer="muon"`` in the settings `MuonAndAdamW`."""
        if self.settings.optimizer == "muon" and self.optimizer is None:
            given: Any = self.model if model is None else model
            s = self.settings
            within = ".layer." if given.config.model_type == "bert" else ".h."
            self.optimizer = MuonAndAdamW(given, s.peak, s.weight_decay, (0.9, 0.98), within)
        return super().create_optimizer(model)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        draws: Any = train_dataset if train_dataset is not None else self.train_dataset
        return SequentialSampler(draws)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean −ln p over the batch's predicted tokens."""
        with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16):
            return scoring.token_scores(model, inputs["input_ids"], inputs["labels"])[0].mean()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Score some blocks of the validation texts and log the result."""
        last = self.state.log_history[-1] if self.state.log_history else {}
        if last.get("step") == self.state.global_step and "held_out_nats" in last:
            return last  # Trainer asks twice at the last step
        model: Any = self.model
        score = scoring.evaluate(
            model,
            self.processing_class,
            self.held,
            length=self.settings.length,
            limit=self.settings.held_blocks,
        )
        found = {"held_out_nats": score.nats, "held_out_accuracy": score.accuracy}
        self.log(found)
        return found


class CoreSeconds(TrainerCallback):
    """Adds to each log entry the processor seconds used so far, all threads and earlier runs together."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Continue from what the checkpoint says."""
        before = [entry["core_seconds"] for entry in state.log_history if "core_seconds" in entry]
        self.zero = time.process_time() - (before[-1] if before else 0.0)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the time into the newest entry."""
        state.log_history[-1]["core_seconds"] = round(time.process_time() - self.zero, 1)


def train(
    kind: str,
    output: str | Path,
    settings: Settings | None = None,
    *,
    training: list[str] | None = None,
    validation: list[str] | None = None,
    test: list[str] | None = None,
    resume: bool = False,
) -> Path:
    """Train the teacher of ``kind`` and write it to the folder ``output``, whole or not at all.

    Checkpoints go to a folder beside it, ``<output>-training``, which stays. Texts that are not given are
    `refimpl.recipes.texts.training_texts` and `refimpl.recipes.texts.held_out`.

    Args:
        kind: ``"masked-lm"`` or ``"causal-lm"``.
        output: the folder to write: config.json, model.safetensors (fp16), the tokenizer's files, log.json
            and README.md. What it held before is replaced at the end.
        settings: the kind's own when ``None``.
        training: texts to train on.
        validation: texts of the curve.
        test: texts of the final scores.
        resume: continue from the last checkpoint, if there is one; the result is that of a run without
            interruption, bit for bit on the same machine.

    Returns:
        ``output``.

    Raises:
        ValueError: unknown kind; too few texts; ``resume`` of a run with other settings.
        FileExistsError: there are checkpoints, and ``resume`` is not asked for.
        ModuleNotFoundError: accelerate is not installed.
    """
    check_choice("kind", kind, KINDS)
    settings = settings or DEFAULTS[kind]
    work = Path(f"{output}-training")
    last = _last_checkpoint(work, {"kind": kind, **asdict(settings)}, resume)
    torch.set_num_threads(settings.threads)
    packages = texts.versions() if training is None else {}
    training = texts.training_texts(settings.repeats, settings.seed) if training is None else training
    validation = texts.held_out("validation") if validation is None else validation
    test = texts.held_out("test") if test is None else test
    tokenizer = make_tokenizer(kind, training, settings)
    if kind == "masked-lm":
        tokens = texts.chain(tokenizer, training, tokenizer.sep_token_id)
        rows = texts.blocks(tokens, settings.length, tokenizer.cls_token_id, tokenizer.sep_token_id)
    else:
        rows = texts.blocks(texts.chain(tokenizer, training, tokenizer.eos_token_id), settings.length)
    set_seed(settings.seed)
    model = make_model(kind, tokenizer, settings)
    trainer = TeacherTrainer(
        validation,
        settings,
        model=model,
        args=_arguments(work, settings),
        train_dataset=Draws(rows, settings.steps * settings.batch, settings.seed),
        data_collator=Collator(kind, tokenizer, settings.seed, settings.share),
        processing_class=tokenizer,
        callbacks=[CoreSeconds()],
    )
    work.mkdir(parents=True, exist_ok=True)
    (work / "settings.json").write_text(json.dumps({"kind": kind, **asdict(settings)}), encoding="utf-8")
    trainer.train(resume_from_checkpoint=last)
    curve = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    facts = {
        "kind": kind,
        "settings": asdict(settings),
        "packages": packages,
        "texts": len(training),
        "blocks": len(rows),
        "tokens_seen": settings.steps * settings.batch * settings.length,
        "curve": curve,
    }
    release(model.cpu(), tokenizer, facts, {"validation": validation, "test": test}, output)
    return Path(output)


def _last_checkpoint(work: Path, wanted: dict[str, Any], resume: bool) -> str | None:
    """The newest whole checkpoint of the same run: Trainer writes trainer_state.json last."""
    found = sorted(work.glob("checkpoint-*/trainer_state.json"), key=lambda p: int(p.parent.name[11:]))
    if not found:
        return None
    if not resume:
        raise FileExistsError(
            f"output: got one whose {work.name} has checkpoints; takes resume, or remove it"
        )
    before = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    if before != wanted:
        raise ValueError(f"resume: got a run with {before}; takes the same settings, {wanted}")
    return str(found[-1].parent)


def _arguments(work: Path, settings: Settings) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.peak,
        lr_scheduler_type="cosine",
        warmup_steps=min(settings.warmup, settings.steps // 10),
        weight_decay=settings.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=settings.clip,
        optim="adamw_torch_fused",
        seed=settings.seed,
        logging_steps=min(50, settings.every),
        eval_strategy="steps",
        eval_steps=settings.every,
        save_steps=settings.every,
        save_total_limit=2,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m refimpl.recipes.teachers", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--output", type=Path, help="folder to write; the kind's name when not given")
    parser.add_argument("--steps", type=int, help="of training; the committed number when not given")
    parser.add_argument("--peak", type=float, help="learning rate after warm-up")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    given = parser.parse_args(arguments)
    changes = {
        key: value
        for key in ("steps", "peak", "seed", "threads")
        if (value := getattr(given, key)) is not None
    }
    settings = Settings(**{**asdict(DEFAULTS[given.kind]), **changes})
    print(train(given.kind, given.output or Path(given.kind), settings, resume=given.resume))


if __name__ == "__main__":
    main()
