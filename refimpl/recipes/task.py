"""A task for the masked LM and its students: which library does a docstring describe? Accuracy after fine-tuning."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from refimpl.checks import check_int
from refimpl.data import LIBRARIES, classification

__all__ = ["fine_tune"]


class _Examples(Dataset):
    def __init__(self, split: str, tokenizer: Any, limit: int, seed: int, length: int) -> None:
        drawn = classification(split, limit=limit, seed=seed)
        read = tokenizer([e.text for e in drawn], truncation=True, max_length=length)
        self.rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": e.label}
            for ids, mask, e in zip(read["input_ids"], read["attention_mask"], drawn, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def fine_tune(
    model: PreTrainedModel,
    tokenizer: Any,
    examples: int = 100,
    seed: int = 0,
    *,
    epochs: int = 4,
    peak: float = 5e-4,
    length: int = 96,
    test_examples: int = 200,
) -> float:
    """Test accuracy of ``model``'s body with a new classification head, both trained on a few examples.

    `refimpl.data.classification` with transformers' own classes and Trainer: batches of 16, AdamW, linear decay after a
    warm-up over a tenth of the steps. ``seed`` draws the training examples, the head and the order; the test
    examples are always the same. ``model`` is left as it was.

    Args:
        model: a masked LM of transformers, or its body.
        tokenizer: its tokenizer.
        examples: of each library, to train on.
        seed: see above.
        epochs: passes over them.
        peak: the learning rate after warm-up.
        length: tokens of a text, at most.
        test_examples: of each library, to score.

    Raises:
        TypeError: no model of transformers.
        ValueError: a count below 1.
        ModuleNotFoundError: accelerate is not installed.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: got {type(model).__name__}; takes a model of transformers")
    for name, value in (("examples", examples), ("epochs", epochs), ("test_examples", test_examples)):
        check_int(name, value, 1)
    training = _Examples("train", tokenizer, examples, seed, length)
    test = _Examples("test", tokenizer, test_examples, 0, length)
    steps = epochs * -(-len(training) // 16)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = AutoModelForSequenceClassification.from_config(_with_labels(model.config))
        body.base_model.load_state_dict(model.base_model.state_dict(), strict=False)
        trainer = Trainer(
            model=body,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=16,
                per_device_eval_batch_size=64,
                learning_rate=peak,
                warmup_steps=steps // 10,
                seed=seed,
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=training,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        predicted: Any = trainer.predict(test)  # type: ignore[arg-type]
    return float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())


def _with_labels(config: Any) -> Any:
    changed = type(config).from_dict(config.to_dict())
    changed.num_labels = len(LIBRARIES)
    return changed
