"""The range with the smallest squared error: clip as long as finer steps gain more than clipping loses."""

from __future__ import annotations

from collections.abc import Callable

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
    """Shrink the ends of the range to where mean (x − x̂)² of each row is smallest.

    With α, β ∈ {1, (steps−1)/steps, …, 1/steps}: symmetric grids take ``[−α A, α A]`` of `absmax_range` with the
    best α. Others take ``[α low, β high]`` of `minmax_range`, widened to hold 0, first the best β at α = 1, then the best α at that β:
    one-sided values, such as those behind a GELU, need their short side whole. Of equal errors the wider range
    wins. ``[..., n] -> [...], [...]``, in fp32 at least.

    Args:
        x: rows of values.
        bits, symmetric, signed: the grid that the values will be rounded to, as in `affine_qparams`; ``signed``
            moves the integers and leaves the range as it is.
        steps: number of candidates, at least 1; each costs one pass over ``x`` (two if not symmetric).

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows, ``bits`` or ``steps`` out of bounds.
    """
    check_int("steps", steps, 1)
    x = check_rows(x)
    low, high = absmax_range(x) if symmetric else minmax_range(x)
    low, high = low.clamp(max=0), high.clamp(min=0)  # a grid holds 0 in any case

    def error(low: Tensor, high: Tensor) -> Tensor:
        scale, zero_point = affine_qparams(low, high, bits, symmetric, signed)
        scale, zero_point = scale.unsqueeze(-1), zero_point.unsqueeze(-1)
        q = quantize(x, scale, zero_point, bits, signed, narrow=symmetric)
        return (dequantize(q, scale, zero_point) - x).square().mean(-1)

    if symmetric:
        alpha = _best(lambda a: error(a * low, a * high), low, steps)
        return alpha * low, alpha * high
    high = high * _best(lambda b: error(low, b * high), low, steps)
    return low * _best(lambda a: error(a * low, high), low, steps), high


def _best(error: Callable[[float], Tensor], like: Tensor, steps: int) -> Tensor:
    """For each row the fraction with the smallest error, from 1 down to 1/steps."""
    chosen, least = torch.ones_like(like), torch.full_like(like, torch.inf)
    for step in range(steps, 0, -1):
        found = error(step / steps)
        better = found < least
        least = torch.where(better, found, least)
        chosen = torch.where(better, step / steps, chosen)
    return chosen
