"""kNN-LM: a language model that looks up what followed similar contexts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from refimpl.checks import check_int, check_module, check_number, check_tensor
from refimpl.retrieve.answers.neighbours import neighbour_probabilities
from refimpl.retrieve.engines import faiss

__all__ = ["Datastore", "contexts", "interpolate"]


@torch.inference_mode()
def contexts(model: Any, ids: Tensor, batch_size: int = 16) -> tuple[Tensor, Tensor]:
    """What a causal LM knows before each token, and how likely it finds each token: ``(keys, log_p)``.

    Args:
        model: a causal language model of transformers with ``lm_head``.
        ids: ``[B, L]``, whole rows without padding.
        batch_size: rows at a time.

    Returns:
        ``keys [B, L, D]``, the output layer's input, fp32; ``log_p [B, L, V]``, fp32: both at position i belong to the token that
        follows position i.

    Raises:
        TypeError: another model, or ids that are no tensor. ValueError: ids that are not ``[B, L]``.
    """
    check_module("model", model)
    check_tensor("ids", ids, ndim=2)
    check_int("batch_size", batch_size, 1)
    if not hasattr(model, "lm_head") or not hasattr(model, "base_model"):
        raise TypeError(f"model: got {type(model).__name__}; takes a causal language model of transformers")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    keys, log_p = [], []
    try:
        for part in ids.split(batch_size):
            hidden = model.base_model(input_ids=part, use_cache=False)[0]
            keys.append(hidden.float())
            log_p.append(log_softmax(model.lm_head(hidden).float(), -1))
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(keys), torch.cat(log_p)


class Datastore:
    """Contexts and the tokens that followed them, to be searched by squared Euclidean distance.

    The keys of `contexts` are the output layer's input; the source takes the input of the last feed-forward layer.

    Memory: N·(4·D + 8) bytes for N tokens of training text, and no parameters: a datastore of 103 million tokens and D = 1,024 takes
    423 GB beside a model of 247 million parameters.

    Args:
        keys: ``[N, D]``.
        tokens: ``[N]``, what followed.

    Raises:
        TypeError, ValueError: shapes that do not fit, NaN or infinity, nothing.
        ModuleNotFoundError: faiss is not installed.

    Source: Khandelwal et al. 2020 (arXiv 1911.00172).
    """

    def __init__(self, keys: Tensor, tokens: Tensor) -> None:
        check_tensor("keys", keys, ndim=2, floating=True, finite=True)
        check_tensor("tokens", tokens, shape=(len(keys),))
        if not len(keys):
            raise ValueError("keys: got none; takes at least one")
        if tokens.is_floating_point():
            raise TypeError(f"tokens: got dtype {tokens.dtype}; takes integers")
        self.tokens = tokens.long().cpu()
        self.index = faiss().IndexFlatL2(keys.shape[1])
        self.index.add(np.ascontiguousarray(keys.detach().float().cpu().numpy()))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and tokens."""
        return len(self) * (4 * self.index.d + 8)

    def search(self, queries: Tensor, k: int = 16) -> tuple[Tensor, Tensor]:
        """``(scores, tokens)``, both ``[Q, k']`` with k' = min(k, N): minus the squared distances, the nearest first.

        Raises:
            TypeError, ValueError: no ``[Q, D]`` of finite floats; k below 1.
        """
        check_tensor("queries", queries, shape=(None, self.index.d), floating=True, finite=True)
        check_int("k", k, 1)
        given = np.ascontiguousarray(queries.detach().float().cpu().numpy())
        distances, rows = self.index.search(given, min(k, len(self)))
        return -torch.from_numpy(distances), self.tokens[torch.from_numpy(rows)]

    def probabilities(
        self, queries: Tensor, vocabulary: int, k: int = 16, temperature: float = 1.0
    ) -> Tensor:
        """`neighbour_probabilities` of the next token after each context, ``[Q, vocabulary]``."""
        scores, tokens = self.search(queries, k)
        return neighbour_probabilities(scores, tokens, vocabulary, temperature)


def interpolate(log_p: Tensor, retrieved: Tensor, weight: float) -> Tensor:
    """``log(λ·p_kNN + (1 − λ)·p_LM)``, ``[..., V]``: 0 is the model alone, bit for bit; -inf where both are 0.

    Args:
        log_p: ``[..., V]`` of the model.
        retrieved: p_kNN, same shape.
        weight: λ, 0 to 1.

    Raises:
        TypeError, ValueError: shapes that differ, λ out of bounds.
    """
    check_tensor("log_p", log_p, floating=True)
    check_tensor("retrieved", retrieved, shape=log_p.shape, floating=True)
    check_number("weight", weight, 0, 1)
    if weight == 0:
        return log_p
    return (weight * retrieved + (1 - weight) * log_p.exp()).log()
