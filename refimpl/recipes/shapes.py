"""The teachers' settings, and the untrained model and the tokenizer that follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from refimpl.checks import check_choice, check_int, check_number
from refimpl.recipes.release import KINDS, OPTIMIZERS
from refimpl.recipes.vocabulary import byte_bpe, wordpiece

__all__ = ["DEFAULTS", "Settings", "make_model", "make_tokenizer"]


@dataclass(frozen=True)
class Settings:
    """Everything that decides the result, beside the texts, the versions and the machine.

    One step is one batch of ``batch`` blocks of ``length`` tokens. ``peak`` is the learning rate after
    ``warmup`` steps; it then falls along a cosine and is 0 after ``steps``. ``std`` is the standard
    deviation of the initial weights: .02 in the published models, 768 wide; .05 ≈ .02·√(768/128) keeps the
    size of what a layer of 128 adds. ``optimizer`` is ``"adamw"`` or ``"muon"``, which is
    `refimpl.recipes.optimizer.MuonAndAdamW`.

    Raises:
        ValueError: a count below 1, a ``peak`` of 0 or less, a ``width`` that is no multiple of ``heads``,
            an unknown ``optimizer``.
    """

    steps: int
    batch: int = 16
    length: int = 128
    optimizer: str = "adamw"
    peak: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.1
    clip: float = 1.0
    dropout: float = 0.1
    layers: int = 12
    width: int = 128
    heads: int = 4
    vocabulary: int = 4096
    std: float = 0.05
    share: float = 0.15  # of the tokens masked, of a masked LM; scores always mask 15 %
    repeats: int = 2
    seed: int = 0
    threads: int = 1
    every: int = 250  # steps between two points of the curve and two checkpoints
    held_blocks: int = 128  # validation blocks at each point of the curve

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch",
            "layers",
            "width",
            "heads",
            "repeats",
            "threads",
            "every",
            "held_blocks",
        ):
            check_int(name, getattr(self, name), 1)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_int("length", self.length, 3)
        check_int("seed", self.seed, 0)
        check_number("peak", self.peak, 0, low_open=True)
        check_number("share", self.share, 0, 1, low_open=True)
        check_number("dropout", self.dropout, 0, 1, high_open=True)
        if self.width % self.heads:
            raise ValueError(f"width: got {self.width} with {self.heads} heads; takes a multiple of heads")


DEFAULTS = {
    # BERT normalises after each layer's sum: from larger initial weights, or with a shorter warm-up, 12
    # layers stay at the unigram loss. Of 15 % of the tokens a masked LM learns from a seventh of what a causal
    # one does: so 40 % are masked (Wettig et al. 2023). With AdamW and dropout 12 layers were worse than
    # counting neighbours after 4,000 steps; Muon and no dropout, for little more than one pass, mend it.
    "masked-lm": Settings(
        steps=6000, optimizer="muon", peak=4e-3, std=0.02, warmup=300, dropout=0.0, share=0.4
    ),
    "causal-lm": Settings(steps=5000, peak=2e-3),
}


def make_tokenizer(kind: str, training: Iterable[str], settings: Settings) -> Any:
    """The tokenizer of ``kind``, trained on each of the ``training`` texts once.

    Raises:
        ValueError: unknown kind; and as `refimpl.recipes.wordpiece` and `refimpl.recipes.byte_bpe`.
    """
    make = wordpiece if check_choice("kind", kind, KINDS) == "masked-lm" else byte_bpe
    return make(sorted(set(training)), settings.vocabulary, settings.length)


def make_model(kind: str, tokenizer: Any, settings: Settings) -> PreTrainedModel:
    """The untrained model of ``kind``, embeddings tied, its weights drawn from torch's global generator.

    BERT's position embeddings start as sinusoids of the same size as the other embeddings, so that a place at
    a fixed distance is a linear map away from the first step on; they are trained like all else.
    GPT-2's activation is ``gelu_pytorch_tanh``: the function of ``gelu_new`` in one kernel.

    Raises:
        ValueError: unknown kind.
    """
    if check_choice("kind", kind, KINDS) == "masked-lm":
        bert = BertForMaskedLM(
            BertConfig(
                vocab_size=settings.vocabulary,
                hidden_size=settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=4 * settings.width,
                max_position_embeddings=settings.length,
                hidden_dropout_prob=settings.dropout,
                attention_probs_dropout_prob=settings.dropout,
                initializer_range=settings.std,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        positions = bert.bert.embeddings.position_embeddings.weight
        with torch.no_grad():
            positions.copy_(math.sqrt(2) * settings.std * _sinusoids(*positions.shape))
        return bert
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=settings.vocabulary,
            n_embd=settings.width,
            n_layer=settings.layers,
            n_head=settings.heads,
            n_positions=settings.length,
            resid_pdrop=settings.dropout,
            embd_pdrop=settings.dropout,
            attn_pdrop=settings.dropout,
            activation_function="gelu_pytorch_tanh",
            initializer_range=settings.std,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def _sinusoids(positions: int, width: int) -> Tensor:
    """sin and cos of position / 10000^(2i/width), ``[positions, width]``; Vaswani et al. 2017, section 3.5."""
    angle = torch.arange(positions)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
