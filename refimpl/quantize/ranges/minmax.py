"""From the smallest value to the largest: nothing is clipped."""

from __future__ import annotations

from torch import Tensor

from refimpl.quantize.ranges.rows import check_rows

__all__ = ["minmax_range"]


def minmax_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """(min x, max x) of each row: ``[..., n] -> [...], [...]``, in fp32 at least.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows.
    """
    low, high = check_rows(x).aminmax(dim=-1)
    return low, high
