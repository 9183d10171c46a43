"""Product quantization as a `Code`, trained by faiss."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.codes.common import Code
from refimpl.retrieve.engines import faiss
from refimpl.retrieve.rows import check_array

__all__ = ["ProductCode"]


class ProductCode(Code):
    """``parts`` codes of ``bits`` bits a vector; `refimpl.retrieve.indexes.PQIndex` shows how it works inside.

    Args:
        training: ``[T, dim]``, at least 2^bits vectors.
        parts: a divisor of ``dim``.
        bits: 1 to 16 of each part; the bytes of a vector are ⌈parts·bits/8⌉.
        iterations: of k-means; ten are nearly as good as faiss's 25 in less than half the time.

    Raises:
        TypeError, ValueError: no such array, ``parts`` that do not divide ``dim``, too few vectors,
            a count out of its bounds.
        ModuleNotFoundError: faiss is not installed.
    """

    def __init__(self, training: np.ndarray, parts: int, bits: int = 8, iterations: int = 25) -> None:
        training = check_array("training", training)
        self.dim = training.shape[1]
        check_int("parts", parts, 1, self.dim)
        check_int("bits", bits, 1, 16)
        check_int("iterations", iterations, 1)
        if self.dim % parts:
            raise ValueError(f"parts: got {parts} for {self.dim} numbers; takes a divisor")
        if len(training) < 2**bits:
            raise ValueError(f"training: got {len(training)} vectors; takes at least {2**bits}")
        self.quantizer = faiss().ProductQuantizer(self.dim, parts, bits)
        self.quantizer.cp.niter = iterations
        self.quantizer.cp.min_points_per_centroid = 1  # fewer are worse, which is no warning's business
        self.quantizer.cp.max_points_per_centroid = max(256, len(training) // 2**bits)
        self.quantizer.train(training)

    @property
    def nbytes(self) -> int:
        """Bytes a vector."""
        return self.quantizer.code_size

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """See `Code.encode`."""
        return self.quantizer.compute_codes(check_array("vectors", vectors, self.dim))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """See `Code.decode`."""
        return self.quantizer.decode(codes)
