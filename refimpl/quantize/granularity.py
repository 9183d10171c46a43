"""Which numbers share a scale: all of a tensor, those of a channel, those of a group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor

__all__ = ["Granularity", "PerChannel", "PerGroup", "PerTensor", "from_blocks", "to_blocks"]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index along ``axis`` (0: each output of a weight ``[out, in]``, or each token).

    Raises:
        TypeError: ``axis`` is no integer.
    """

    axis: int = 0

    def __post_init__(self) -> None:
        check_int("axis", self.axis)


@dataclass(frozen=True)
class PerGroup:
    """One scale for each ``size`` neighbours along the last dimension.

    Raises:
        TypeError, ValueError: ``size`` is no integer, or below 1.
    """

    size: int = 64

    def __post_init__(self) -> None:
        check_int("size", self.size, 1)


Granularity = PerTensor | PerChannel | PerGroup


def to_blocks(x: Tensor, granularity: Granularity) -> Tensor:
    """``x`` as ``[blocks, elements]``: one row for what shares a scale.

    Raises:
        TypeError: not a tensor, or not a granularity.
        ValueError: no such axis, or a last dimension that ``size`` does not divide.
    """
    check_tensor("x", x)
    if isinstance(granularity, PerTensor):
        return x.reshape(1, -1)
    if isinstance(granularity, PerChannel):
        axis = _axis(granularity, x.ndim)
        return x.movedim(axis, 0).reshape(x.shape[axis], x.shape.numel() // max(x.shape[axis], 1))
    if isinstance(granularity, PerGroup):
        if x.ndim == 0 or x.shape[-1] % granularity.size:
            last = x.shape[-1] if x.ndim else 1
            raise ValueError(f"size: got {granularity.size}; takes a divisor of the last dimension, {last}")
        return x.reshape(-1, granularity.size)
    raise TypeError(
        f"granularity: got {type(granularity).__name__}; takes PerTensor(), PerChannel() or PerGroup()"
    )


def from_blocks(blocks: Tensor, granularity: Granularity, shape: torch.Size) -> Tensor:
    """The inverse of `to_blocks` for a tensor of ``shape``.

    Raises:
        TypeError, ValueError: another number of elements than ``shape`` has, and as `to_blocks`.
    """
    check_tensor("blocks", blocks, ndim=2)
    if blocks.numel() != torch.Size(shape).numel():
        raise ValueError(f"shape: got {tuple(shape)}; takes one of {blocks.numel()} elements")
    if isinstance(granularity, PerChannel):
        axis = _axis(granularity, len(shape))
        rest = [n for i, n in enumerate(shape) if i != axis]
        return blocks.reshape(shape[axis], *rest).movedim(0, axis)
    to_blocks(blocks.reshape(shape), granularity)
    return blocks.reshape(shape)


def _axis(granularity: PerChannel, ndim: int) -> int:
    if not -ndim <= granularity.axis < ndim:
        raise ValueError(f"axis: got {granularity.axis}; takes one of a tensor of {ndim} dimensions")
    return granularity.axis % ndim
