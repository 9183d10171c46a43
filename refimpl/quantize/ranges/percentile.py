"""Leave out a fixed share of the extreme values: cheap, and blind to what they are worth."""

from __future__ import annotations

from torch import Tensor

from refimpl.checks import check_number
from refimpl.quantize.ranges.rows import check_rows

__all__ = ["percentile_range"]


def percentile_range(x: Tensor, percentile: float = 99.9) -> tuple[Tensor, Tensor]:
    """The central ``percentile`` per cent of each row: (100 − p)/2 per cent are clipped at either end.

    ``[..., n] -> [...], [...]``, in fp32 at least. Between two values the ends are interpolated linearly, as
    `numpy.percentile` does.

    Raises:
        TypeError, ValueError: not floating point, NaN or infinity, empty rows, ``percentile`` not in (0, 100].
    """
    check_number("percentile", percentile, 0, 100, low_open=True)
    x = check_rows(x).sort(-1).values  # torch.quantile refuses more than 2^24 numbers
    tail = (1 - percentile / 100) / 2 * (x.shape[-1] - 1)
    whole, part = int(tail), tail - int(tail)
    following = min(whole + 1, x.shape[-1] - 1)
    low = x[..., whole].lerp(x[..., following], part)
    high = x[..., -1 - whole].lerp(x[..., -1 - following], part)
    return low, high
