"""The range with the smallest squared error: clip as long as finer steps gain more than clipping loses."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_int
from refimpl.quantize.grid import affine_qparams, dequantize, quantize
from refimpl.quantize.ranges.absmax import absmax_range
from refimpl.quantize.ranges.minmax import minmax_range
from refimpl.quantize.ranges.rows import check_rows

__all__ = ["mse_range"]


def mse_range(
    x: Tensor, bits: int = 8, symmetric: bool = False, signed: bool = True, steps: int = 100
) -> tuple[Tensor, Tensor]:
    """argmin over α ∈ {1, (steps−1)/steps, …, 1/steps} of mean (x − x̂)² on the grid of [α low, α high].

    low and high are those of `minmax_range`, or of `absmax_range` when ``symmetric``. Each row chooses its
    own α; of equal errors the wider range wins. ``[..., n] -> [...], [...]``, in fp32 at least.

    Args:
        x: rows of values.
        bits, symmetric, signed: the grid that the values will be rounded to, as in `affine_qparams`.
        steps: number of candidates, at least 1; each costs one pass over ``x``.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows, ``bits`` or ``steps`` out of bounds.
    """
    check_int("steps", steps, 1)
    x = check_rows(x)
    low, high = absmax_range(x) if symmetric else minmax_range(x)
    best_low, best_high = low, high
    best = torch.full_like(low, torch.inf)
    for step in range(steps, 0, -1):
        alpha = step / steps
        scale, zero_point = affine_qparams(alpha * low, alpha * high, bits, symmetric, signed)
        scale, zero_point = scale.unsqueeze(-1), zero_point.unsqueeze(-1)
        q = quantize(x, scale, zero_point, bits, signed, narrow=symmetric)
        error = (dequantize(q, scale, zero_point) - x).square().mean(-1)
        better = error < best
        best = torch.where(better, error, best)
        best_low = torch.where(better, alpha * low, best_low)
        best_high = torch.where(better, alpha * high, best_high)
    return best_low, best_high
