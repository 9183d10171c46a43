"""The order in which a training run sees its blocks, and the batches made of them: functions of the seed alone."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from refimpl.recipes import scoring

__all__ = ["Collator", "Draws"]


class Draws(Dataset):
    """All blocks that a training run sees, in order: passes over ``rows``, each in an order of its own.

    Item i is a function of i and the seed alone, so a run that is resumed sees what the first would have.
    """

    def __init__(self, rows: Tensor, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        passes = math.ceil(count / len(rows))
        order = [torch.randperm(len(rows), generator=generator) for _ in range(passes)]
        self.rows, self.order = rows, torch.cat(order)[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self.rows[self.order[index]]


class Collator:
    """Blocks to a batch with labels; the masks of a masked LM are new at each draw, seeded by its number."""

    def __init__(self, kind: str, tokenizer: Any, seed: int, share: float = 0.15) -> None:
        self.kind, self.tokenizer, self.seed, self.share = kind, tokenizer, seed, share

    def __call__(self, drawn: list[tuple[int, Tensor]]) -> dict[str, Tensor]:
        """``input_ids`` and ``labels``, ``[B, L]`` each."""
        ids = torch.stack([row for _, row in drawn])  # (B, L)
        if self.kind == "causal-lm":
            return {"input_ids": ids, "labels": scoring.next_tokens(ids)}
        # torch's generator takes 32 bits of a seed: a prime step keeps the runs of other seeds apart
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + drawn[0][0])
        t = self.tokenizer
        ids, labels = scoring.mask_tokens(
            ids, t.mask_token_id, len(t), t.all_special_ids, generator, self.share
        )
        return {"input_ids": ids, "labels": labels}
