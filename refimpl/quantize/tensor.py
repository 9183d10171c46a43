"""A whole tensor onto a grid and back: granularity, range and grid put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from refimpl.checks import check_tensor
from refimpl.quantize.granularity import Granularity, PerTensor, from_blocks, to_blocks
from refimpl.quantize.grid import affine_qparams, dequantize, integer_range, quantize
from refimpl.quantize.ranges import absmax_range, minmax_range

__all__ = ["QuantizedTensor", "quantize_tensor"]


@dataclass(frozen=True)
class QuantizedTensor:
    """Integers with what it takes to read them.

    Attributes:
        q: integers ``[blocks, elements]``, one row for each scale.
        scale, zero_point: ``[blocks]``.
        granularity, shape: how the blocks make up the tensor.
        bits, symmetric: the grid.
    """

    q: Tensor
    scale: Tensor
    zero_point: Tensor
    granularity: Granularity
    shape: torch.Size
    bits: int
    symmetric: bool

    def dequantize(self) -> Tensor:
        """x̂ in the shape of the tensor, in the dtype of the scales."""
        blocks = dequantize(self.q, self.scale.unsqueeze(1), self.zero_point.unsqueeze(1))
        return from_blocks(blocks, self.granularity, self.shape)

    @property
    def bits_per_number(self) -> float:
        """bits + 32 / elements that share a scale; an affine grid's zero point takes ``bits`` more per block."""
        per_block = 32 if self.symmetric else 32 + self.bits
        return self.bits + per_block / self.q.shape[1]


def quantize_tensor(
    x: Tensor,
    bits: int = 8,
    granularity: Granularity = PerTensor(),  # noqa: B008  frozen, so shared without harm
    symmetric: bool = True,
    signed: bool = True,
    range_of: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> QuantizedTensor:
    """Cut ``x`` into blocks, choose a range for each, and round to its grid.

    Args:
        x: floating point, any shape with at least one element.
        bits, symmetric, signed: the grid, as in `affine_qparams`.
        granularity: what shares a scale.
        range_of: rows ``[blocks, n]`` to ends ``[blocks], [blocks]``; when ``None`` the range that clips nothing:
            `absmax_range` for symmetric grids, else `minmax_range`.

    Raises:
        TypeError, ValueError: NaN or infinity, an empty tensor, a granularity that does not fit.
    """
    check_tensor("x", x, floating=True, finite=True)
    integer_range(bits, signed)
    rows = to_blocks(x.detach(), granularity)
    if range_of is None:
        range_of = absmax_range if symmetric else minmax_range
    low, high = range_of(rows)
    scale, zero_point = affine_qparams(low, high, bits, symmetric, signed)
    q = quantize(rows, scale.unsqueeze(1), zero_point.unsqueeze(1), bits, signed, narrow=symmetric)
    return QuantizedTensor(q, scale, zero_point, granularity, x.shape, bits, symmetric)
