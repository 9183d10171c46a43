"""What a language model says of texts that it was not trained on: nats, perplexity, accuracy, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from refimpl.checks import check_int, check_module, check_number, check_tensor
from refimpl.distill.positions import IGNORED
from refimpl.recipes.texts import blocks, chain

__all__ = [
    "Evaluation",
    "causal_rows",
    "evaluate",
    "mask_tokens",
    "masked_rows",
    "next_tokens",
    "token_scores",
    "windows",
]


@dataclass(frozen=True)
class Evaluation:
    """Means over the ``tokens`` that were predicted.

    Attributes:
        nats: mean of −ln p(token), natural logarithm.
        accuracy: share of tokens that had the largest logit.
        tokens: how many were predicted.
        bits_per_byte: Σ −log₂ p over all tokens / bytes of the texts in UTF-8; ``None`` for a masked LM,
            whose predictions are no code of the text.
    """

    nats: float
    accuracy: float
    tokens: int
    bits_per_byte: float | None = None

    @property
    def perplexity(self) -> float:
        """exp(nats); for a masked LM of the masked tokens given the others."""
        return math.exp(self.nats)


def mask_tokens(
    ids: Tensor,
    mask_token: int,
    vocabulary: int,
    special: Sequence[int],
    generator: torch.Generator,
    share: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """BERT's corruption of ids ``[B, L]``: ``(input, labels)``, both ``[B, L]``.

    Each token that is not special is chosen with probability ``share``; of the chosen ones 80 % become the
    mask token, 10 % a random token of the vocabulary, 10 % stay. Labels are the ids where a token was
    chosen and −100 elsewhere. All randomness is the ``generator``'s.

    Raises:
        TypeError: ``ids`` is no tensor.
        ValueError: ``ids`` is not two-dimensional; ``share`` outside (0, 1].

    Source: Devlin et al. 2019, section 3.1 and appendix A.1.
    """
    check_tensor("ids", ids, ndim=2)
    check_number("share", share, 0, 1, low_open=True)
    chosen, kind = torch.rand(2, *ids.shape, generator=generator)  # (B, L) each
    other = torch.randint(vocabulary, ids.shape, generator=generator)
    picked = (chosen < share) & ~torch.isin(ids, torch.tensor(list(special), dtype=ids.dtype))
    masked = torch.where(picked & (kind < 0.8), mask_token, ids)
    masked = torch.where(picked & (kind >= 0.9), other, masked)
    return masked, torch.where(picked, ids, IGNORED)


def next_tokens(ids: Tensor) -> Tensor:
    """Labels of a causal LM, ``[B, L]``: at each place the id that follows in the row, −100 at the last."""
    check_tensor("ids", ids, ndim=2)
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1)


def windows(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Tokens ``[N]`` as ``(ids, labels)``, ``[B, length]`` each, in which all but the first are predicted once.

    A window begins with the last token of the one before, so each token has between 1 and ``length`` tokens
    before it. The last window is filled up with copies of its last token, whose labels are −100.

    Raises:
        ValueError: fewer than two tokens; ``length`` below 1.
    """
    check_tensor("tokens", tokens, ndim=1)
    check_int("length", length, 1)
    if len(tokens) < 2:
        raise ValueError(f"tokens: got {len(tokens)}; takes at least 2")
    missing = -(len(tokens) - 1) % length
    ids = F.pad(tokens[:-1], (0, missing), value=int(tokens[-1])).view(-1, length)
    return ids, F.pad(tokens[1:], (0, missing), value=IGNORED).view(-1, length)


def causal_rows(tokenizer: Any, texts: Sequence[str], length: int = 128) -> tuple[Tensor, Tensor]:
    """What `evaluate` gives a causal LM to predict: ``(ids, labels)``, ``[B, length]`` each.

    The texts with the end token after each, as one chain, the end token before it, cut into `windows`: each
    token of the chain is predicted once.

    Raises:
        TypeError: the tokenizer has no end token.
        ValueError: no texts; ``length`` below 1.
    """
    end = _special(tokenizer, "eos_token_id")
    return windows(F.pad(chain(tokenizer, texts, end), (1, 0), value=end), length)


def masked_rows(
    tokenizer: Any, texts: Sequence[str], length: int = 128, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """What `evaluate` gives a masked LM to predict: ``(ids, labels)``, ``[B, length]`` each.

    The texts with [SEP] after each, as one chain, cut into `blocks` of [CLS], length − 2 tokens, [SEP]; of
    these `mask_tokens` chooses 15 % by ``seed``.

    Raises:
        TypeError: the tokenizer has no [SEP], [CLS] or [MASK].
        ValueError: no texts, or too few for one block.
    """
    start, end, mask = (_special(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask"))
    rows = blocks(chain(tokenizer, texts, end), length, start, end)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    return mask_tokens(rows, mask, len(tokenizer), tokenizer.all_special_ids, generator)


def token_scores(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token with a label ≥ 0, in order: −ln p in fp32 ``[M]``, and whether it had the largest logit.

    Differentiable in the first. Where the model's output layer can be called by itself (``cls`` of BERT,
    ``lm_head`` of GPT-2) it runs on these M places only: of a masked LM on 15 % of all.

    Args:
        model: of transformers, with logits over a vocabulary.
        ids: ``[B, L]``.
        labels: ``[B, L]``: what the model is to say at each place; of a causal LM, `next_tokens`.

    Raises:
        TypeError: ``model`` is no language model of transformers.
        ValueError: ``ids`` and ``labels`` of different shapes.
    """
    check_tensor("ids", ids, ndim=2)
    check_tensor("labels", labels, shape=ids.shape)
    if not hasattr(model, "base_model") or model.get_output_embeddings() is None:
        raise TypeError(f"model: got {type(model).__name__}; takes a language model of transformers")
    chosen = labels != IGNORED
    if hasattr(model, "lm_head"):
        logits = model.lm_head(model.base_model(input_ids=ids, use_cache=False)[0][chosen])  # (M, V)
    elif hasattr(model, "cls"):
        logits = model.cls(model.base_model(input_ids=ids)[0][chosen])
    else:
        logits = model(input_ids=ids).logits[chosen]
    wanted = labels[chosen]
    return F.cross_entropy(logits.float(), wanted, reduction="none"), logits.argmax(-1) == wanted


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    length: int = 128,
    batch_size: int = 16,
    seed: int = 0,
    limit: int | None = None,
) -> Evaluation:
    """Score held-out ``texts`` with a causal or a masked language model of transformers.

    A masked LM, which is one whose tokenizer has a mask token, predicts the chosen tokens of `masked_rows`, the
    same for every ``batch_size``. A causal LM predicts each token of `causal_rows` once, the end tokens
    included, which have no bytes. The model runs in evaluation mode and without gradients, and is left as it
    was.

    Args:
        model: a language model of transformers.
        tokenizer: its tokenizer.
        texts: strings.
        length: of a block, in tokens.
        batch_size: blocks a batch.
        seed: of the masks.
        limit: score at most so many blocks, evenly spaced; then there are no bits per byte.

    Raises:
        TypeError: ``model`` is no language model of transformers; the tokenizer lacks a special token.
        ValueError: no texts, or too few for one block; ``length`` beyond the model's positions.
    """
    check_module("model", model)
    check_int("batch_size", batch_size, 1)
    positions = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    check_int("length", length, 1, positions)
    if limit is not None:
        check_int("limit", limit, 1)
    causal = getattr(tokenizer, "mask_token_id", None) is None
    if causal:
        ids, labels = causal_rows(tokenizer, texts, length)
    else:
        ids, labels = masked_rows(tokenizer, texts, length, seed)
    if limit is not None:
        chosen = torch.linspace(0, len(ids) - 1, min(limit, len(ids))).long()
        ids, labels = ids[chosen], labels[chosen]
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    total, right, count = 0.0, 0, 0
    try:
        with torch.inference_mode():
            for part, wanted in zip(ids.split(batch_size), labels.split(batch_size), strict=True):
                nats, hits = token_scores(model, part.to(device), wanted.to(device))
                total += float(nats.double().sum())
                right += int(hits.sum())
                count += len(nats)
    finally:
        for module, mode in modes:
            module.training = mode
    if not count:
        raise ValueError("texts: got so few that no token was chosen; takes more")
    whole = causal and limit is None
    bits = total / math.log(2) / sum(len(text.encode()) for text in texts) if whole else None
    return Evaluation(total / count, right / count, count, bits)


def _special(tokenizer: Any, name: str) -> int:
    value: int | None = getattr(tokenizer, name, None)
    if value is None:
        raise TypeError(f"tokenizer: got {type(tokenizer).__name__} without {name}; takes the model's own")
    return value
