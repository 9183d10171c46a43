"""Texts that a model writes as training data: sequence-level distillation, and the samples of on-policy ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from refimpl.checks import check_choice, check_int, check_number, check_tensor
from refimpl.distill.positions import IGNORED
from refimpl.measure.sample import at_rest

__all__ = ["generate_targets"]


def generate_targets(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 32,
    method: str = "greedy",
    *,
    num_beams: int = 5,
    temperature: float = 1.0,
    seed: int = 0,
    eos_token_id: int | None = None,
) -> dict[str, Tensor]:
    """A batch of prompts, each continued by a causal model, with labels on what it wrote.

    With the teacher's ``"beam"`` this is sequence-level distillation: train a student on the batch with
    `hard_term` alone; the teacher's distribution over texts is replaced by its (approximate) mode. With
    ``"sample"`` the batch is drawn from ``prod_i softmax(z_i / T)`` itself: no top-k, no nucleus, no penalty,
    whatever the model's own generation settings say (those of the published GPT-2 models keep the 50 most
    likely tokens unless told otherwise).

    Args:
        model: a causal model of transformers (``generate``), run in evaluation mode without gradients.
        input_ids: ``[B, P]``, prompts, padded on either side.
        attention_mask: ``[B, P]``, 1 on real tokens, at least one in each row; None: no padding.
        max_new_tokens: at most so many are written for each prompt, at least 1.
        method: ``"greedy"``, ``"beam"`` (the sum of log-probabilities divided by the length, Hugging Face's
            default) or ``"sample"``.
        num_beams: for ``"beam"``, at least 2.
        temperature: for ``"sample"``; ``T > 0``.
        seed: for ``"sample"``; the caller's random state is left as it was.
        eos_token_id: ends a text and is part of it, with a label. None takes the model's; one without any
            writes ``max_new_tokens``.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, each ``[B, L]``: prompt, then what was written, then
        padding (on the right, where positions count from 0 without being told). Labels are under their
        tokens, not shifted, and -100 on prompt and padding.

    Raises:
        TypeError, ValueError: no such model, an empty prompt, numbers out of range, a length beyond the
            positions that the model has.

    Source: Kim & Rush, EMNLP 2016 (arXiv 1606.07947), section 3.2.
    """
    if not callable(getattr(model, "generate", None)) or not hasattr(model, "generation_config"):
        raise TypeError(f"model: got {type(model).__name__}; takes a causal model of transformers")
    mask = _check_prompts(input_ids, attention_mask)
    check_int("max_new_tokens", max_new_tokens, 1)
    check_choice("method", method, ("greedy", "beam", "sample"))
    check_int("num_beams", num_beams, 2)
    check_number("temperature", temperature, 0, low_open=True)
    check_int("seed", seed, 0)
    prompts = [row[keep] for row, keep in zip(input_ids, mask, strict=True)]
    longest = max(len(p) for p in prompts)
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None and longest + max_new_tokens > room:
        raise ValueError(
            f"max_new_tokens: got {max_new_tokens} after a prompt of {longest}; takes at most "
            f"{room - longest}, the model has {room} positions"
        )
    end = model.generation_config.eos_token_id if eos_token_id is None else eos_token_id
    ends = torch.as_tensor([] if end is None else end, device=model.device).reshape(-1)
    pad = int(ends[0]) if len(ends) else 0  # masked wherever it stands
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=method == "sample",
        num_beams=num_beams if method == "beam" else 1,
        eos_token_id=ends.tolist() or None,
        pad_token_id=pad,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if method == "sample" else {}),
    )
    with at_rest(model), _settings(model, config), _seeded(model.device, seed):
        left, real = _padded_left(prompts, pad, model.device)
        written = model.generate(left, attention_mask=real)[:, longest:]  # [B, <= max_new_tokens]
    after = torch.isin(written, ends).long().cumsum(1) - torch.isin(written, ends).long()
    texts = [w[a == 0] for w, a in zip(written, after, strict=True)]  # up to the first end, with it
    return _batch([p.to(model.device) for p in prompts], texts, pad)


def _check_prompts(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The mask as booleans."""
    check_tensor("input_ids", input_ids, ndim=2)
    if input_ids.is_floating_point() or not input_ids.numel():
        raise ValueError(
            f"input_ids: got {input_ids.dtype} {tuple(input_ids.shape)}; takes integers [B, P], not empty"
        )
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    check_tensor("attention_mask", attention_mask, shape=input_ids.shape)
    if not bool(attention_mask.bool().any(1).all()):
        raise ValueError("attention_mask: got a row without a token; takes prompts of at least one")
    return attention_mask.bool()


@contextmanager
def _settings(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Nothing but ``config``: what a call leaves open is otherwise taken from the model's own settings."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """A random state of its own inside the block."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _padded_left(prompts: list[Tensor], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts that end in the same column, where the first new token goes; and their mask."""
    longest = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long, device=device)
    real = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        real[row, longest - len(prompt) :] = 1
    return ids, real


def _batch(prompts: list[Tensor], texts: list[Tensor], pad: int) -> dict[str, Tensor]:
    """Prompt and text of each row from the left on, with labels on the text."""
    length = max(len(p) + len(t) for p, t in zip(prompts, texts, strict=True))
    ids = torch.full((len(prompts), length), pad, dtype=torch.long, device=prompts[0].device)
    real = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        start, end = len(prompt), len(prompt) + len(text)
        ids[row, :start], ids[row, start:end] = prompt, text
        real[row, :end] = 1
        labels[row, start:end] = text
    return {"input_ids": ids, "attention_mask": real, "labels": labels}
