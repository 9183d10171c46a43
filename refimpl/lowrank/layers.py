"""A linear layer of two thin factors."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from refimpl.checks import check_int
from refimpl.modules import features, weight_of
from refimpl.lowrank.svd import truncated_svd

__all__ = ["LowRankLinear"]


class LowRankLinear(nn.Module):
    """y = x Dᵀ Uᵀ + b with ``down`` D ``[r, in]`` and ``up`` U ``[out, r]``: rank r at most.

    r(in + out) weights and as many multiplications a position, instead of in · out. Both factors are
    ordinary parameters and can be trained on.

    Args:
        in_features, rank, out_features: sizes, each at least 1.
        bias: whether there is a bias ``[out]``.

    Raises:
        TypeError, ValueError: a size that is not an integer of at least 1.
    """

    def __init__(self, in_features: int, rank: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = check_int("in_features", in_features, 1)
        self.out_features = check_int("out_features", out_features, 1)
        self.rank = check_int("rank", rank, 1, min(in_features, out_features))
        self.down = nn.Parameter(torch.zeros(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in] -> [..., out]``."""
        return F.linear(F.linear(x, self.down), self.up, self.bias)  # (..., in) -> (..., r) -> (..., out)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"in_features={self.in_features}, rank={self.rank}, out_features={self.out_features}"

    @classmethod
    def rebuild(cls, old: nn.Module, rank: int) -> LowRankLinear:
        """An empty layer in the place of ``old``, of its sizes, dtype, device and mode."""
        weight = weight_of(old)
        in_features, out_features = features(old)
        new = cls(in_features, rank, out_features, bias=old.bias is not None)
        new.requires_grad_(weight.requires_grad)
        return new.to(device=weight.device, dtype=weight.dtype).train(old.training)

    @classmethod
    def from_factors(
        cls, old: nn.Module, u: torch.Tensor, s: torch.Tensor, vh: torch.Tensor
    ) -> LowRankLinear:
        """The layer of U diag(S) Vh and ``old``'s bias; √S goes into each factor, so both have one scale."""
        new = cls.rebuild(old, rank=len(s))
        root = s.sqrt()
        with torch.no_grad():
            new.up.copy_(u * root)  # (m, r) * (r)
            new.down.copy_(root[:, None] * vh)  # (r, 1) * (r, n)
            if new.bias is not None:
                new.bias.copy_(old.bias)  # type: ignore[arg-type]
        return new

    @classmethod
    def from_linear(cls, old: nn.Module, rank: int) -> LowRankLinear:
        """The best layer of this rank for ``old``'s weight (see `truncated_svd`)."""
        return cls.from_factors(old, *truncated_svd(weight_of(old), rank))
