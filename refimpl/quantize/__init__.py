"""Fewer bits a number: grids, ranges, packing, and layers that compute with integers."""

from refimpl.quantize.error import sqnr
from refimpl.quantize.granularity import PerChannel, PerGroup, PerTensor, from_blocks, to_blocks
from refimpl.quantize.grid import affine_qparams, dequantize, integer_range, quantize
from refimpl.quantize.layers import Int4WeightLinear, Int8DynamicLinear, Int8WeightLinear
from refimpl.quantize.packing import pack_int4, unpack_int4
from refimpl.quantize.product import int8_linear, integer_path, quantize_rows
from refimpl.quantize.ranges import absmax_range, minmax_range, mse_range, percentile_range, rms_range
from refimpl.quantize.tensor import QuantizedTensor, quantize_tensor
from refimpl.quantize.verb import Int4Weights, Int8Dynamic, Int8Weights, quantize_

__all__ = [
    "Int4WeightLinear",
    "Int4Weights",
    "Int8Dynamic",
    "Int8DynamicLinear",
    "Int8WeightLinear",
    "Int8Weights",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "QuantizedTensor",
    "absmax_range",
    "affine_qparams",
    "dequantize",
    "from_blocks",
    "int8_linear",
    "integer_path",
    "integer_range",
    "minmax_range",
    "mse_range",
    "pack_int4",
    "percentile_range",
    "quantize",
    "quantize_",
    "quantize_rows",
    "quantize_tensor",
    "rms_range",
    "sqnr",
    "to_blocks",
    "unpack_int4",
]
