"""Two 4-bit integers in a byte."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor

__all__ = ["pack_int4", "unpack_int4"]


def pack_int4(q: Tensor) -> Tensor:
    """Pack neighbours along the last dimension: byte = (q[2i] + 8) | (q[2i+1] + 8) << 4.

    Args:
        q: int8 ``[..., n]`` with values −8 … 7; for odd n a zero is appended.

    Returns:
        uint8 ``[..., ⌈n/2⌉]``: the even places in the low halves.

    Raises:
        TypeError: not int8.
        ValueError: no dimension, or values outside −8 … 7.
    """
    check_tensor("q", q)
    if q.dtype != torch.int8:
        raise TypeError(f"q: got dtype {q.dtype}; takes int8")
    if q.ndim == 0:
        raise ValueError("q: got a tensor without dimensions; takes [..., n]")
    if q.numel() and (int(q.min()) < -8 or int(q.max()) > 7):
        raise ValueError(f"q: got values from {int(q.min())} to {int(q.max())}; takes -8 to 7")
    if q.shape[-1] % 2:
        q = torch.cat([q, torch.zeros_like(q[..., :1])], -1)
    nibbles = (q + 8).to(torch.uint8)
    return nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)


def unpack_int4(packed: Tensor, n: int) -> Tensor:
    """The inverse of `pack_int4`: uint8 ``[..., ⌈n/2⌉]`` -> int8 ``[..., n]``.

    Raises:
        TypeError: not uint8, or ``n`` no integer.
        ValueError: ``n`` does not fit the last dimension.
    """
    check_tensor("packed", packed)
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed: got dtype {packed.dtype}; takes uint8")
    check_int("n", n, 0)
    if packed.ndim == 0 or packed.shape[-1] != (n + 1) // 2:
        raise ValueError(
            f"n: got {n} for bytes of shape {tuple(packed.shape)}; takes twice the last one, or one less"
        )
    pairs = torch.stack([packed & 15, packed >> 4], -1)  # (..., ceil(n/2), 2)
    return pairs.flatten(-2)[..., :n].to(torch.int8) - 8
