"""A linear layer kept as two thin ones."""

from __future__ import annotations

import torch
from torch import nn

from refimpl.checks import check_int
from refimpl.lowrank.svd import Factors
from refimpl.modules import features, weight_of

__all__ = ["LowRankLinear"]


class LowRankLinear(nn.Module):
    """y = up(down(x)) = x (W_up W_down)ᵀ + b: ``[..., in] -> [..., rank] -> [..., out]``.

    rank · (in + out) weights instead of in · out. ``down`` (no bias) and ``up`` are ordinary
    `torch.nn.Linear`, so what else works on linear layers (quantization, pruning, counting) sees them.

    Args:
        in_features, rank, out_features: sizes, at least 1.
        bias: whether ``up`` adds one.
        device, dtype: of the parameters, initialised as `torch.nn.Linear` does.

    Raises:
        TypeError, ValueError: a size that is no integer, or below 1.
    """

    def __init__(
        self,
        in_features: int,
        rank: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_int("in_features", in_features, 1)
        self.rank = check_int("rank", rank, 1)
        self.out_features = check_int("out_features", out_features, 1)
        self.down = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.up = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_linear(cls, layer: nn.Module, factors: Factors) -> LowRankLinear:
        """The layer ``layer`` (`torch.nn.Linear` or `Conv1D`) with ``factors`` for its weight; same bias.

        Raises:
            TypeError: not a linear layer.
            ValueError: factors of another shape than its weight.
        """
        (out_features, _), (_, in_features) = factors.u.shape, factors.vh.shape
        if (in_features, out_features) != features(layer):
            raise ValueError(
                f"factors: got {out_features} x {in_features}; takes {tuple(weight_of(layer).shape)}"
            )
        new = cls.rebuild(layer, len(factors.s))
        up, down = factors.balanced()
        with torch.no_grad():
            new.up.weight.copy_(up)
            new.down.weight.copy_(down)
        return new

    @classmethod
    def rebuild(cls, old: nn.Module, rank: int) -> LowRankLinear:
        """A layer of zeros in the place of ``old``, with its bias, dtype, device and mode."""
        weight = weight_of(old)
        in_features, out_features = features(old)
        # made on "meta", so that no random numbers are drawn
        new = cls(in_features, rank, out_features, bias=False, device="meta", dtype=weight.dtype)
        new = new.to_empty(device=weight.device)
        for parameter in new.parameters():
            nn.init.zeros_(parameter)
        new.requires_grad_(weight.requires_grad)
        new.up.bias = old.bias  # type: ignore[assignment]  # the same object: a tie would hold
        return new.train(old.training)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix ``[out, in]`` that the layer multiplies with, made anew at each call."""
        return self.up.weight @ self.down.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in] -> [..., out]``."""
        return self.up(self.down(x))

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, rank={self.rank}, out_features={self.out_features}"
