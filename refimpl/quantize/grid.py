"""Uniform grids: x̂ = scale · (q − zero_point), with q an integer of so many bits."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor

__all__ = ["affine_qparams", "dequantize", "integer_range", "quantize"]


def integer_range(bits: int = 8, signed: bool = True, narrow: bool = False) -> tuple[int, int]:
    """Smallest and largest integer of a grid.

    ``signed``: −2^(bits−1) … 2^(bits−1)−1; otherwise 0 … 2^bits−1. ``narrow`` leaves the smallest one out, so
    that a symmetric grid has as many steps below zero as above (−127 … 127; unsigned 1 … 255).

    Raises:
        TypeError, ValueError: ``bits`` is no integer from 2 to 16.
    """
    check_int("bits", bits, 2, 16)
    low = -(2 ** (bits - 1)) if signed else 0
    return low + int(narrow), low + 2**bits - 1


def affine_qparams(
    low: float | Tensor,
    high: float | Tensor,
    bits: int = 8,
    symmetric: bool = False,
    signed: bool = True,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid that covers ``[low, high]``.

    The range is first widened to contain 0, so that 0 lies on the grid exactly (padding, ReLU, masked weights).

        affine:     scale = (high − low) / (2^bits − 1),       zero_point = qmin − round(low / scale)
        symmetric:  scale = max(−low, high) / (2^(bits−1) − 1), zero_point = 0 (unsigned: 2^(bits−1))

    A range of width zero gets scale 1. Hand case: unsigned 8 bits of [−2, 10]: scale 12/255, zero point 42.

    Args:
        low, high: ends of the range, numbers or tensors of one shape (one entry per block).
        bits: width of the integers, 2 to 16.
        symmetric: put 0 in the middle of the grid, which makes products cheaper (no terms with zero points).
        signed: integers around zero, or from zero up.

    Returns:
        scale (fp32; fp64 for fp64 ranges) and zero_point (int32), each of the shape of ``low``.

    Raises:
        TypeError, ValueError: not numbers or floating-point tensors, NaN or infinity, ``low > high``, shapes
            that differ, ``bits`` out of bounds.

    Source: Jacob et al. 2018, arXiv 1712.05877, eq. 1 and section 3.
    """
    low, high = _end("low", low), _end("high", high)
    if low.shape != high.shape:
        raise ValueError(f"high: got shape {tuple(high.shape)}; takes that of low, {tuple(low.shape)}")
    if bool((low > high).any()):
        raise ValueError("low: got an entry above that of high; takes low <= high")
    qmin, qmax = integer_range(bits, signed)
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        scale = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
        scale = torch.where(scale > 0, scale, 1.0)
        return scale, torch.full_like(scale, qmin + 2 ** (bits - 1), dtype=torch.int32)
    scale = (high - low) / (qmax - qmin)
    scale = torch.where(scale > 0, scale, 1.0)
    return scale, (qmin - (low / scale).round()).clamp(qmin, qmax).to(torch.int32)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int = 8,
    signed: bool = True,
    narrow: bool = False,
) -> Tensor:
    """q = clip(round(x / scale) + zero_point, qmin, qmax), ties to even; computed in fp32 at least.

    Args:
        x: floating point, any shape.
        scale, zero_point: as from `affine_qparams`, of shapes that broadcast to that of ``x``.
        bits, signed, narrow: the grid, as in `integer_range`.

    Returns:
        Integers of the shape of ``x``: int8 or uint8 up to 8 bits, else int16 or (unsigned) int32.

    Raises:
        TypeError, ValueError: ``x`` not floating point or not finite, a scale that is not positive, shapes
            that do not broadcast to that of ``x``.
    """
    check_tensor("x", x, floating=True, finite=True)
    _check_scale(scale, zero_point)
    if torch.broadcast_shapes(x.shape, scale.shape, zero_point.shape) != x.shape:
        raise ValueError(
            f"scale: got {tuple(scale.shape)}; takes a shape that broadcasts to {tuple(x.shape)}"
        )
    qmin, qmax = integer_range(bits, signed, narrow)
    x = x if x.dtype == torch.float64 else x.float()
    q = (x / scale).round_().add_(zero_point).clamp_(qmin, qmax)
    if bits <= 8:
        return q.to(torch.int8 if signed else torch.uint8)
    return q.to(torch.int16 if signed else torch.int32)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """x̂ = scale · (q − zero_point), in the dtype of ``scale``; shapes as in `quantize`.

    Raises:
        TypeError, ValueError: ``q`` not of integers, a scale that is not positive.
    """
    check_tensor("q", q)
    if q.is_floating_point() or q.is_complex() or q.dtype == torch.bool:
        raise TypeError(f"q: got dtype {q.dtype}; takes an integer tensor")
    _check_scale(scale, zero_point)
    return (q.to(torch.int32) - zero_point) * scale


def _end(name: str, value: float | Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value))
    check_tensor(name, value, floating=True, finite=True)
    return value.detach() if value.dtype == torch.float64 else value.detach().float()


def _check_scale(scale: Tensor, zero_point: Tensor) -> None:
    check_tensor("scale", scale, floating=True, finite=True)
    if bool((scale <= 0).any()):
        raise ValueError("scale: got an entry that is not positive; takes positive numbers")
    check_tensor("zero_point", zero_point)
    if zero_point.is_floating_point():
        raise TypeError(f"zero_point: got dtype {zero_point.dtype}; takes integers")
