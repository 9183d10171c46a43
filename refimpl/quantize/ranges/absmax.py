"""As far below zero as above: what a symmetric grid covers without clipping."""

from __future__ import annotations

from torch import Tensor

from refimpl.quantize.ranges.rows import check_rows

__all__ = ["absmax_range"]


def absmax_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """(−max |x|, max |x|) of each row: ``[..., n] -> [...], [...]``, in fp32 at least.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows.
    """
    high = check_rows(x).abs().amax(-1)
    return -high, high
