"""So many standard deviations about zero: for bell-shaped values, without a look at the extremes."""

from __future__ import annotations

from torch import Tensor

from refimpl.checks import check_number
from refimpl.quantize.ranges.minmax import minmax_range
from refimpl.quantize.ranges.rows import check_rows

__all__ = ["rms_range"]


def rms_range(x: Tensor, sigmas: float = 4.0) -> tuple[Tensor, Tensor]:
    """(−sigmas · rms, sigmas · rms), no wider than the data, with rms = sqrt(mean x²) of each row.

    ``[..., n] -> [...], [...]``, in fp32 at least. What lies outside is clipped.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows, ``sigmas`` not positive.
    """
    check_number("sigmas", sigmas, 0, low_open=True)
    x = check_rows(x)
    low, high = minmax_range(x)
    reach = sigmas * x.square().mean(-1).sqrt()
    return low.maximum(-reach), high.minimum(reach)
