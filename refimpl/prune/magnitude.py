"""Magnitude pruning: the smallest weights become zero; shapes stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from refimpl.checks import check_choice, check_number, check_tensor
from refimpl.modules import linear_layers, record_step_, weight_of
from refimpl.prune.masks import keep_highest, mask_from_scores, removed_count

__all__ = ["Magnitude", "magnitude_masks", "magnitude_scores"]


def magnitude_scores(weight: torch.Tensor) -> torch.Tensor:
    """S_ij = |W_ij|, in fp32 at least.

    Args:
        weight: floating point, finite, any shape.

    Raises:
        TypeError, ValueError: not a floating-point tensor, NaN or infinity.

    Source: Han, Pool, Tran, Dally 2015 (arXiv 1506.02626).
    """
    check_tensor("weight", weight, floating=True, finite=True)
    scores = weight.detach().abs()
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def magnitude_masks(
    weights: Mapping[str, torch.Tensor], sparsity: float, scope: Literal["layer", "global"] = "layer"
) -> dict[str, torch.Tensor]:
    """Masks that remove ⌊sparsity · n⌋ of each weight (``layer``), or of all of them together (``global``).

    Args:
        weights: tensors by name.
        sparsity: fraction removed, from 0 to 1.
        scope: what the n entries are that compete: one tensor's, or all tensors' by their raw |W|.

    Returns:
        Boolean tensors by name, True where kept. Among equal scores the first in order is removed first.

    Raises:
        TypeError, ValueError: nothing to prune, bad tensors, sparsity or scope.
    """
    check_choice("scope", scope, ("layer", "global"))
    if not weights:
        raise ValueError("weights: got none; takes at least one tensor")
    scores = {name: magnitude_scores(w) for name, w in weights.items()}
    if scope == "layer":
        return {name: mask_from_scores(s, sparsity) for name, s in scores.items()}
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    mask = keep_highest(flat, removed_count(flat.numel(), sparsity))
    parts = mask.split([s.numel() for s in scores.values()])
    return {name: part.reshape(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


@dataclass(frozen=True)
class Magnitude:
    """Set the ⌊sparsity · n⌋ weights of smallest magnitude to zero.

    Biases, embeddings and normalisations are left alone. The tensors keep their shape, so the model
    becomes neither smaller nor faster by this alone: see `refimpl.prune.Bitmask` for the bytes.

    Attributes:
        sparsity: fraction of the chosen weights removed, from 0 to 1.
        scope: ``"layer"``: the same fraction of each layer; ``"global"``: one competition over all layers.

    Raises:
        TypeError, ValueError: sparsity outside [0, 1], unknown scope.
    """

    sparsity: float
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        check_number("sparsity", self.sparsity, 0, 1)
        check_choice("scope", self.scope, ("layer", "global"))

    def apply_(
        self,
        model: nn.Module,
        layers: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
        stats: Mapping[str, Any] | None,
    ) -> nn.Module:
        """See `refimpl.prune.prune_`."""
        chosen = linear_layers(model, include=layers, exclude=exclude)
        for name, layer in chosen.items():
            if not isinstance(layer.weight, nn.Parameter):
                raise ValueError(f"{name}.weight: got a reparametrised weight; takes a plain parameter")
        # a parameter that two of the chosen layers share is one tensor: it competes once
        once = {id(layer.weight): (name, weight_of(layer)) for name, layer in reversed(chosen.items())}
        weights = dict(reversed(once.values()))
        masks = magnitude_masks(weights, self.sparsity, self.scope)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.masked_fill_(~masks[name], 0)
        return record_step_(
            model, {"method": "prune.Magnitude", "config": asdict(self), "pruned": list(weights)}
        )
