"""A number for a number: fp32 and fp16 as they are, int8 with one scale, and one bit."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.codes.common import Code
from refimpl.retrieve.rows import check_array

__all__ = ["BinaryCode", "FloatCode", "Int8Code"]


class FloatCode(Code):
    """The numbers themselves, in 32 or 16 bits.

    Raises:
        ValueError: other ``bits``.
    """

    def __init__(self, dim: int, bits: int = 32) -> None:
        self.dim = check_int("dim", dim, 1)
        if bits not in (16, 32):
            raise ValueError(f"bits: got {bits}; takes 16 or 32")
        self.dtype = np.dtype(f"f{bits // 8}")

    @property
    def nbytes(self) -> int:
        """Bytes a vector."""
        return self.dim * self.dtype.itemsize

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """See `Code.encode`.

        Raises:
            TypeError, ValueError: no such array; a number that 16 bits cannot hold.
        """
        vectors = check_array("vectors", vectors, self.dim)
        if self.dtype.itemsize == 2 and float(np.abs(vectors).max(initial=0.0)) > 65504:
            raise ValueError("vectors: got a number beyond 65,504; 16 bits take no larger one")
        return vectors.astype(self.dtype)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """See `Code.decode`."""
        return codes.astype(np.float32)


class Int8Code(Code):
    """``x̂ = scale·q`` with ``q = round(x / scale)`` in −127 … 127, one scale for all: dim bytes.

    One scale, because an inner product adds over dimensions: with ranges of their own, wide dimensions would be
    rounded more coarsely than narrow ones *in what they add*. What lies beyond the training vectors' largest
    number is clipped.

    Args:
        training: ``[T, dim]``, of which the largest absolute value sets the scale.

    Raises:
        TypeError, ValueError: no such array, or nothing above 1e-30 in it.
    """

    def __init__(self, training: np.ndarray) -> None:
        training = check_array("training", training)
        self.dim = training.shape[1]
        largest = float(np.abs(training).max(initial=0.0))
        if largest < 1e-30:  # zeros, or so small that the step would have no digits
            raise ValueError(f"training: got {largest:.0e} as the largest number; takes 1e-30 at least")
        self.scale = largest / 127

    @property
    def nbytes(self) -> int:
        """Bytes a vector."""
        return self.dim

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """See `Code.encode`."""
        steps = np.rint(check_array("vectors", vectors, self.dim) / self.scale)
        return np.clip(steps, -127, 127).astype(np.int8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """See `Code.decode`."""
        return self.scale * codes.astype(np.float32)


class BinaryCode(Code):
    """The signs, packed: dim/8 bytes. x̂ has ±1/√dim in every place, so qᵀx̂ weighs each sign by the query.

    `hamming` compares codes with codes, which a processor does in a few instructions; it throws away the query's
    sizes too.

    Raises:
        ValueError: ``dim`` is no multiple of 8.
    """

    def __init__(self, dim: int) -> None:
        self.dim = check_int("dim", dim, 8)
        if dim % 8:
            raise ValueError(f"dim: got {dim}; takes a multiple of 8")

    @property
    def nbytes(self) -> int:
        """Bytes a vector."""
        return self.dim // 8

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """See `Code.encode`."""
        return np.packbits(check_array("vectors", vectors, self.dim) > 0, axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """See `Code.decode`."""
        signs = 2.0 * np.unpackbits(codes, axis=1, count=self.dim).astype(np.float32) - 1
        return (signs / np.sqrt(self.dim)).astype(np.float32)

    def hamming(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """Bits that differ, ``[Q, dim/8]`` and ``[N, dim/8]`` to ``[Q, N]``; cos ≈ cos(π·bits/dim)."""
        return _ONES[one[:, None] ^ two[None]].sum(-1, dtype=np.int32)


_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
