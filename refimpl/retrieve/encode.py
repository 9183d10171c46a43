"""Texts to vectors: run an encoder in batches of similar length, pool its last hidden states, normalise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refimpl.checks import check_choice, check_int, check_tensor
from refimpl.processor import bf16_products

__all__ = ["encode", "fingerprint", "pool"]

POOLINGS = ("mean", "cls")


def pool(hidden: Tensor, attention_mask: Tensor, mode: str = "mean") -> Tensor:
    """One vector a text from the hidden states of its real positions.

    mean: v = Σ_t m_t h_t / Σ_t m_t; cls: v = h_t at the first t with m_t = 1. A text without a real
    position gives zeros. Computed and returned in fp32 at least; what padded positions hold, NaN included,
    has no influence.

    Args:
        hidden: ``[B, L, D]``, floating point.
        attention_mask: ``[B, L]``, 1 or True where a position is real.
        mode: ``"mean"`` or ``"cls"``.

    Returns:
        ``[B, D]``.

    Raises:
        TypeError: not tensors, or ``hidden`` not floating point.
        ValueError: shapes that do not fit, an unknown mode.

    Source: Reimers and Gurevych 2019, arXiv 1908.10084, section 3.
    """
    check_tensor("hidden", hidden, ndim=3, floating=True)
    check_tensor("attention_mask", attention_mask, shape=hidden.shape[:2])
    check_choice("mode", mode, POOLINGS)
    real = attention_mask != 0  # (B, L)
    if mode == "cls":  # the first real position: position 0, unless the padding is on the left
        real = real & (real.cumsum(1) == 1)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    kept = hidden.to(dtype).masked_fill(~real.unsqueeze(-1), 0.0)  # not hidden * mask: NaN * 0 is NaN
    return kept.sum(1) / real.sum(1, keepdim=True).clamp(min=1)  # (B, L, D) -> (B, D)


def encode(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    pooling: str = "mean",
    batch_size: int = 32,
    max_length: int = 128,
    normalize: bool = True,
) -> Tensor:
    """Embed texts: tokenize, run the encoder, pool the last hidden states, scale to length one.

    Texts are run longest first, in batches of similar length, so that little is spent on padding; the
    result is in the order given. The model runs on its own device, in evaluation mode, and is given back
    in the mode it came in. One in bfloat16 on a CPU without it: `refimpl.processor.bf16_products`.

    Args:
        model: gives ``last_hidden_state``, or is a transformers model with a head, whose body is used.
        tokenizer: of transformers; needs no padding token.
        texts: any number of strings. Where a tokenizer makes no token of a text (GPT-2 of the empty string),
            its beginning- or end-of-text token is used.
        pooling: ``"mean"`` or ``"cls"``, see `pool`.
        batch_size: texts a batch.
        max_length: tokens of a text that are kept, special tokens included; the rest is cut off.
        normalize: divide by the Euclidean norm, so that an inner product is a cosine.

    Returns:
        ``[len(texts), D]``, fp32, on the CPU.

    Raises:
        TypeError: one string instead of a list, something that is no string, a model without hidden states.
        ValueError: a number out of range, a text longer than the model's position table.
    """
    check_choice("pooling", pooling, POOLINGS)
    check_int("batch_size", batch_size, 1)
    check_int("max_length", max_length, 1)
    if isinstance(texts, str):
        raise TypeError("texts: got one str; takes a list of them")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts: got {type(text).__name__} at index {i}; takes strings")
    if not callable(tokenizer):
        raise TypeError(f"tokenizer: got {type(tokenizer).__name__}; takes a tokenizer of transformers")
    special = getattr(tokenizer, "num_special_tokens_to_add", lambda: 0)()
    if max_length <= special:
        raise ValueError(
            f"max_length: got {max_length}; takes more than the {special} special tokens that surround every text"
        )
    # a head (masked-lm, causal-lm, ...) gives logits; the vectors are what its body puts out
    body = model.base_model if isinstance(model, PreTrainedModel) else model
    ids = _tokenize(tokenizer, texts, max_length)
    _check_lengths(body, ids)
    device = next((p.device for p in body.parameters()), torch.device("cpu"))
    order = sorted(
        range(len(ids)), key=lambda i: -len(ids[i])
    )  # stable; longest first: no surprise at the end
    half = any(p.dtype == torch.bfloat16 for p in body.parameters())
    modes = [(m, m.training) for m in body.modules()]
    parts = []
    try:
        body.eval()
        with torch.inference_mode(), bf16_products() if half else nullcontext():
            for start in range(0, max(len(order), 1), batch_size):
                rows = [ids[i] for i in order[start : start + batch_size]]
                batch = _pad(rows or _tokenize(tokenizer, ["x"], max_length), tokenizer, device)
                hidden = _hidden(body(**batch))
                # an empty list is run as one text, of which no row is kept: its D is then known
                parts.append(pool(hidden, batch["attention_mask"], pooling).float().cpu()[: len(rows)])
    finally:
        for module, mode in modes:
            module.training = mode
    # (N, D), longest first -> as given; outside inference mode, so that a head can be trained on the result
    vectors = torch.cat(parts)[torch.tensor(order, dtype=torch.long).argsort()]
    return nn.functional.normalize(vectors, dim=-1) if normalize else vectors


def fingerprint(model: nn.Module, tokenizer: Any, *, pooling: str = "mean", max_length: int = 128) -> str:
    """A short name for what `encode` computes: equal if and only if weights, vocabulary and options are.

    The first 16 hexadecimal digits of the SHA-256 over every entry of the state dictionary (name, dtype,
    shape, bytes), the tokenizer's vocabulary, the pooling and the length. For `open_store`, which refuses to
    open vectors of one encoder for another.

    Raises:
        TypeError: a state that is not all tensors, as PyTorch's own quantized layers have.
        ValueError: an unknown pooling, a length below 1.
    """
    check_choice("pooling", pooling, POOLINGS)
    check_int("max_length", max_length, 1)
    digest = hashlib.sha256(json.dumps([pooling, max_length]).encode())
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    body = model.base_model if isinstance(model, PreTrainedModel) else model
    for name, value in body.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(f"model: got {type(value).__name__} as {name} in its state; takes tensors only")
        raw = value.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(raw.dtype), list(raw.shape)]).encode())
        digest.update(raw.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tokenize(tokenizer: Any, texts: list[str], max_length: int) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        texts, truncation=True, max_length=max_length, padding=False, return_attention_mask=False
    )["input_ids"]
    start = next(
        (t for n in ("bos", "eos") if (t := getattr(tokenizer, f"{n}_token_id", None)) is not None), None
    )
    for i, row in enumerate(ids):
        if not row:
            if start is None:
                raise ValueError(
                    f"texts: got {texts[i]!r} at index {i}, of which the tokenizer makes no token"
                )
            ids[i] = [start]
    return ids


def _check_lengths(model: nn.Module, ids: list[list[int]]) -> None:
    """Refuse here what would be an index error deep inside the model."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    longest = max(map(len, ids), default=0)
    if isinstance(limit, int) and longest > limit:
        raise ValueError(f"max_length: got a text of {longest} tokens; the model takes {limit} at most")


def _pad(rows: list[list[int]], tokenizer: Any, device: torch.device) -> dict[str, Tensor]:
    """Right-padded ``input_ids`` and ``attention_mask``; any id will do where there is no padding token."""
    fill = getattr(tokenizer, "pad_token_id", None)
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), 0 if fill is None else fill)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _hidden(output: Any) -> Tensor:
    hidden = getattr(output, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise TypeError(f"model: got an output {type(output).__name__}; takes one with last_hidden_state")
    return hidden
