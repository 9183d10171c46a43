"""Texts to padded batches of token ids: what calibration, measurement and training loops iterate over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from refimpl.checks import check_int

__all__ = ["batches"]


def batches(
    tokenizer: Any, texts: Iterable[str], *, batch_size: int = 32, max_length: int = 128, sort: bool = True
) -> list[dict[str, Tensor]]:
    """Tokenise ``texts`` and pad them batch by batch, each only to its own longest text.

    With ``sort`` texts of like length share a batch, the longest come first (so that too little memory
    shows at once), and the order of equal lengths is kept; without it the order is that of ``texts``.

    Args:
        tokenizer: of transformers; without a padding token (GPT-2) its end-of-text token pads, masked.
        texts: one string each.
        batch_size: texts a batch; the last batch has what is left.
        max_length: of tokens, special tokens included; longer texts are cut.
        sort: by length.

    Returns:
        A list of dictionaries for ``model(**batch)``: ``input_ids``, ``attention_mask`` ``[B, L]`` and what
        else the tokenizer makes; padding is on the right.

    Raises:
        TypeError: ``texts`` is one string, or holds something else than strings; no tokenizer.
        ValueError: no texts; a text without tokens; ``batch_size`` below 1; ``max_length`` that
            leaves no room beside the special tokens.
    """
    check_int("batch_size", batch_size, 1)
    check_int("max_length", max_length, 1)
    if isinstance(texts, str):
        raise TypeError("texts: got one str; takes a list of them")
    listed = list(texts)
    if not listed:
        raise ValueError("texts: got nothing; takes at least one")
    for text in listed:
        if not isinstance(text, str):
            raise TypeError(f"texts: got {type(text).__name__}; takes strings")
    if not hasattr(tokenizer, "num_special_tokens_to_add"):
        raise TypeError(f"tokenizer: got {type(tokenizer).__name__}; takes a tokenizer of transformers")
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise ValueError(f"max_length: got {max_length}; takes more than the {special} special tokens")
    encoded = dict(tokenizer(listed, truncation=True, max_length=max_length, return_attention_mask=True))
    if not all(encoded["input_ids"]):
        raise ValueError("texts: got a text without a token; takes texts that are not empty")
    order = list(range(len(listed)))
    if sort:
        order.sort(key=lambda i: -len(encoded["input_ids"][i]))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    fill = {"input_ids": 0 if pad is None else pad}
    made = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        made.append(
            {key: _padded([values[i] for i in chosen], fill.get(key, 0)) for key, values in encoded.items()}
        )
    return made


def _padded(rows: list[list[int]], value: int) -> Tensor:
    """``[B, L]``: rows filled up on the right to the longest."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64)
