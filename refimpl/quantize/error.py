"""How much of a signal quantization leaves, in decibels."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_tensor

__all__ = ["sqnr"]


def sqnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Signal to quantization noise, 10 · log10(Σ x² / Σ (x − x̂)²) in dB, over all elements, in fp64.

    One bit more halves the step, quarters the noise, and so gives 20 · log10 2 = 6.02 dB, as long as the
    error is uniform within a step. Infinite where nothing was lost.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, shapes that differ, no signal at all.
    """
    check_tensor("x", x, floating=True, finite=True)
    check_tensor("x_hat", x_hat, shape=x.shape, floating=True, finite=True)
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    x, x_hat = x.detach().to(wide), x_hat.detach().to(wide)
    signal = x.square().sum()
    if float(signal) == 0:
        raise ValueError("x: got zeros only; takes at least one number that is not zero")
    return 10 * torch.log10(signal / (x - x_hat).square().sum())
