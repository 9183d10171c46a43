"""Which range of values a grid should cover: one way a file, each from rows ``[..., n]`` to two ends ``[...]``."""

from refimpl.quantize.ranges.absmax import absmax_range
from refimpl.quantize.ranges.minmax import minmax_range
from refimpl.quantize.ranges.mse import mse_range
from refimpl.quantize.ranges.percentile import percentile_range
from refimpl.quantize.ranges.rms import rms_range

__all__ = ["absmax_range", "minmax_range", "mse_range", "percentile_range", "rms_range"]
